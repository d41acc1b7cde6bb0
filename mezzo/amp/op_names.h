#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

#include "mezzo/amp/cast_rule.h"

namespace mezzo {

/// Names of ops as a cast policy has them: "softmax.int", and "myops::scaled_add" outside aten.

/// The dispatcher's name for one: {"aten::softmax", "int"}.
c10::OperatorName dispatcher_name(std::string_view op);

/// The overloads that `op` names: itself, or all of that name that write into no argument. Throws
/// UsageError, with the nearest known op, if there is none.
std::vector<std::string> overloads_of(std::string_view op);

/// What kFp32AppendDtype calls instead of the op: the overload with a dtype besides. norm is the
/// one op whose dtype is an argument of other overloads; none for any other.
std::optional<c10::OperatorHandle> overload_with_dtype(std::string_view op);

/// Throws UsageError unless the op can be run by the rule.
void check_op_takes(const std::string& op, CastRule rule);

}  // namespace mezzo
