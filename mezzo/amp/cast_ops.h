#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mezzo/amp/cast_rule.h"

namespace mezzo {

/// Names of ops as a cast policy has them: "softmax.int", and "myops::scaled_add" outside aten.

/// The overloads that `op` names: itself, or all of that name that write into no argument. Throws
/// Error, with the nearest known op, if there is none.
std::vector<std::string> overloads_of(std::string_view op);

/// Throws Error unless the op can be run by the rule.
void check_op_takes(const std::string& op, CastRule rule);

}  // namespace mezzo
