#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The Euclidean norm of all elements of all tensors together, in one pass that only reads.
///   tensors  any shapes and strides; fp32, bf16 or fp16, mixed; all on one device
///   returns  fp64; 0 for no element; NaN or Inf if and only if an element is
/// Squares are exact and summed in fp64, so that nothing overflows and no 16-bit number underflows:
/// relative error below (200 + N / 4096) * 2^-53. The same bits for any number of threads and any
/// instruction set. Throws Error for another dtype. Synchronises with a device that is no CPU.
double l2_norm(const std::vector<at::Tensor>& tensors);

namespace reference {

/// The same as tensor code.
double l2_norm(const std::vector<at::Tensor>& tensors);

}  // namespace reference

}  // namespace mezzo::kernels
