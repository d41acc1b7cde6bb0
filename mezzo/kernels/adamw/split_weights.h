#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// A tensor of fp32 numbers as two of 16 bits each, all of one shape and one order in memory.
struct SplitWeight {
  at::Tensor high;       ///< bf16: the nearest; what products use
  at::Tensor remainder;  ///< int16: what rounding took away
};

/// bits(w) = bits(high) * 2^16 + remainder, for each element, in 32-bit arithmetic that wraps
/// around. The middle between two bf16 numbers goes away from zero; from 0x1.ffp+127 (3.396e38) on
/// high is Inf, as in a cast; a NaN stays a NaN, and loses the lower half of its payload.
///   w  fp32, any shape
/// Throws Error for another dtype.
SplitWeight split(const at::Tensor& w);

/// The fp32 tensor that was split, bit for bit unless it held a NaN.
at::Tensor join(const at::Tensor& high, const at::Tensor& remainder);

}  // namespace mezzo::kernels
