#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

// gelu.h on a GPU, by address; N numbers of one dtype.

void launch_gelu(const void* x, void* y, int64_t N, DType dtype, void* stream);
/// y: gelu(x) again, or null.
void launch_gelu_backward(const void* grad, const void* x, void* grad_x, void* y, int64_t N,
                          DType dtype, void* stream);

}  // namespace mezzo::kernels::cuda
