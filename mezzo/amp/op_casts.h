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
/// reads. Those that begin with running_ are the statistics that batch_norm and instance_norm
/// update while they train, unknown to the schema: what the op wrote into their casts they get.
class OpCasts {
 public:
  OpCasts(const c10::OperatorHandle& handle, std::string op, c10::DeviceType device);

  /// Replaces the op's arguments at the end of the stack by its results. `rule` is not kPass.
  void call(CastRule rule, torch::jit::Stack* stack) const;

 private:
  /// Statistics that the op updates, and the cast that it is given of them.
  struct Updated {
    at::Tensor statistics, cast;
  };

  bool first_argument_is_eligible(const torch::jit::Stack& stack) const;
  bool updates_statistics(const torch::jit::Stack& stack) const;
  std::vector<Updated> cast_arguments(at::ScalarType dtype, torch::jit::Stack& stack) const;
  at::ScalarType widest(const torch::jit::Stack& stack) const;

  c10::OperatorHandle handle_;
  std::optional<c10::OperatorHandle> with_dtype_;  // the overload for kFp32AppendDtype
  std::string op_;
  c10::DeviceType device_;
  size_t argument_count_;
  std::vector<bool> is_cast_;        // by argument
  std::vector<bool> is_statistics_;  // likewise
  std::optional<int> trains_index_;  // of the argument that says whether they are updated
  std::optional<int> dtype_index_;   // of the argument that kFp32SetDtype sets
};

}  // namespace mezzo
