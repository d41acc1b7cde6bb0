#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// A call of an op with all that went into it, before it changed any of it.
struct Call {
  const OpFacts& op;
  std::vector<c10::IValue> arguments;
  std::vector<at::Tensor> results;
};

/// What went wrong in a call that may have gone wrong by itself; none if it did not. Bad results
/// are said to have; finite ones are wrong in ways that only show beside the exact ones: nearly all
/// of them zero (backward only), different integers become one, or an update that rounding undid
/// (optimizer only). Runs the op again in fp64.
std::optional<Birth> examine(const Call& call, const OpRecord& record);

/// The op's results computed in fp64 from the same arguments; empty where it cannot be.
std::vector<at::Tensor> results_in_fp64(const Call& call);

/// The index of the first element that is not finite; there is one.
std::vector<int64_t> first_non_finite(const at::Tensor& tensor);

}  // namespace mezzo::numerics
