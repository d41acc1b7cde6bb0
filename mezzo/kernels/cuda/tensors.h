#pragma once

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

// How kernels are given tensors.

/// Whether kernels take this dtype: fp32, bf16 or fp16.
bool is_kernel_dtype(at::ScalarType dtype);
/// Whether they take this tensor: of such a dtype, on a GPU.
bool takes(const at::Tensor& x);
/// For one that they take.
DType dtype_of(at::ScalarType dtype);

/// x, contiguous and at a multiple of 16 bytes, as kernels take it: itself, or a copy.
at::Tensor aligned(const at::Tensor& x);

}  // namespace mezzo::kernels::cuda
