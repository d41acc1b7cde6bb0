#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/numerics/replay.h"

namespace mezzo::numerics {

// Note [When two steps agree]
// u is the rounding of the coarsest type that a step computes in. n roundings in a row, of mixed
// sign, add up to sqrt(n) u of the loss (Higham and Mary, 2019): 32 u for the thousand or so that a
// deep model's step has. The terms of which the loss is the mean are rounded once more, each by at
// most u of the largest, and so is their mean, however small it is. Gradients agree where they are
// closer than half the larger one's length: their product is then positive, so that a step along
// either goes downhill. Roundings alone do not bound them, as they are sums that cancel. What is
// not finite is told of elsewhere, and differs from nothing here.

/// Whether the loss of `step` is that of `reference` but for roundings.
bool losses_agree(const Replay& step, const Replay& reference);

/// Whether a parameter's gradient in `step` is another one than `factor` times the reference's.
bool gradients_differ(const Replay& step, const Replay& reference, double factor = 1.0);

/// Whether a parameter or a buffer, of which `starts` holds the values before both steps, moved
/// otherwise.
bool moved_otherwise(const Replay& step, const Replay& reference,
                     const std::vector<at::Tensor>& starts);

/// Whether nearly all of a gradient is zeros in `step` that are none in the reference.
bool loses_gradients(const Replay& step, const Replay& reference);

}  // namespace mezzo::numerics
