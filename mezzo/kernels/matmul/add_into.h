#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// sum += part, elementwise; both contiguous and of one size, sum fp32, part fp32 or bf16.
void add_into(const at::Tensor& sum, const at::Tensor& part);

}  // namespace mezzo::kernels
