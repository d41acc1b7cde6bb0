#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// What became of the updates so far.
struct StepCounts {
  int64_t steps = 0;           ///< updates before which no gradient overflowed
  int64_t skips = 0;           ///< updates before which one did
  int64_t last_overflow = -1;  ///< the update, counted from 0, that was last skipped; -1: none
};

/// The counts live in one int64 tensor {steps, skips, last_overflow} on the device.
at::Tensor make_step_counters(at::Device device);

/// Counts one update in place; found_inf: one element, not zero for a skip. Reads nothing on the
/// host.
void count_step_(at::Tensor& counters, const at::Tensor& found_inf);

}  // namespace mezzo
