#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// sum += part, elementwise; both contiguous and of one size, sum fp32, part fp32 or bf16.
void add_into(const at::Tensor& sum, const at::Tensor& part);

/// factor * x in `dtype`, multiplied in fp32 and rounded once; x itself where that changes nothing.
/// x contiguous, fp32 or bf16; dtype that of x or 16-bit. Undefined for an undefined x.
at::Tensor scaled(const at::Tensor& x, float factor, at::ScalarType dtype);

}  // namespace mezzo::kernels
