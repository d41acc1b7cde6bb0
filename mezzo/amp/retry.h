#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include "mezzo/amp/grad_scaler.h"

namespace mezzo {

/// What came of a step_with_retry().
struct RetryResult {
  bool has_stepped = false;  ///< false: even the last attempt overflowed
  int64_t retries = 0;       ///< attempts after the first
  at::Tensor loss;           ///< of the last attempt, unscaled, detached
};

/// A step that loses no batch to an overflow: forward, scaled backward, step and update; where a
/// gradient is not finite it zeroes the gradients and does the same again at the lowered scale, at
/// most max_retries times.
///   loss         runs the forward pass (under Autocast, where wanted) and returns the loss to
///                scale; it must do the same every time it is called, all of an accumulation too
///   before_step  runs between unscale_ and step, to clip; if not given, unscale_ is left to step
/// The gradients must be zero or absent before; after a step they are there to look at, after a
/// failure they are zeroed. A retry lowers the scale at once, whatever the hysteresis, which holds
/// it only after the last attempt; where it cannot be lowered, being static or at min_scale,
/// nothing is tried twice. Reads the scale and found_inf in each attempt. Throws what GradScaler
/// does; Error also for a negative max_retries.
RetryResult step_with_retry(GradScaler& scaler, torch::optim::Optimizer& optimizer,
                            const std::function<at::Tensor()>& loss, int64_t max_retries,
                            const std::function<void()>& before_step = nullptr);

}  // namespace mezzo
