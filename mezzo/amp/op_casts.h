#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "mezzo/amp/cast_rule.h"

namespace mezzo {

/// Runs one op by a cast rule: casts its arguments on the stack, then calls it. The caller has
/// excluded autocast, so that what the op is made of is not cast again. Arguments whose name in the
/// schema begins with wide_ stay as they are: a fused op says so of what only its protected part
/// reads.
class OpCasts {
 public:
  OpCasts(const c10::OperatorHandle& handle, std::string op, c10::DeviceType device);

  /// Replaces the op's arguments at the end of the stack by its results. `rule` is not kPass.
  void call(CastRule rule, torch::jit::Stack* stack) const;

 private:
  bool first_argument_is_eligible(const torch::jit::Stack& stack) const;
  void cast_arguments(at::ScalarType dtype, torch::jit::Stack& stack) const;
  at::ScalarType widest(const torch::jit::Stack& stack) const;

  c10::OperatorHandle handle_;
  std::optional<c10::OperatorHandle> with_dtype_;  // the overload for kFp32AppendDtype
  std::string op_;
  c10::DeviceType device_;
  size_t argument_count_;
  std::vector<bool> is_cast_;       // by argument
  std::optional<int> dtype_index_;  // of the argument that kFp32SetDtype sets
};

}  // namespace mezzo
