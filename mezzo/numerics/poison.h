#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::numerics {

/// Fills what nobody has written yet with a signalling NaN, which arithmetic never gives: a result
/// that was computed, and is NaN all over, is told from one that was not. Leaves dtypes of 8 bits
/// and complex ones as libtorch filled them.
void poison(const at::Tensor& tensor);

}  // namespace mezzo::numerics
