#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// factor * x in `dtype`, multiplied in fp32 and rounded once; x itself where that changes nothing.
/// x contiguous, fp32 or bf16; dtype that of x or 16-bit. Undefined for an undefined x.
at::Tensor scaled(const at::Tensor& x, float factor, at::ScalarType dtype);

}  // namespace mezzo::kernels
