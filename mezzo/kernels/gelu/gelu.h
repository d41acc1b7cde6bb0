#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// GELU in its tanh form, as GPT-2 has it (Hendrycks and Gimpel, arXiv 1606.08415, section 2):
// gelu(x) = x/2 (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). Below autograd.

/// x of any shape, fp32, bf16 or fp16 -> the same shape and dtype; computed in fp32 and rounded
/// once. Max error in fp32: 4 + 3 |2 u| ULP, as the exponential multiplies the rounding of 2 u by
/// it; 0 for what is below |x| 2^-125. Other dtypes, and devices without a kernel, go to at::gelu.
at::Tensor tanh_gelu(const at::Tensor& x);

/// The gradient of x, in its dtype: grad * d gelu(x)/dx. grad must have shape and dtype of x, or
/// Error is thrown. `again`, if it is not null, becomes tanh_gelu(x), bit for bit: the gradient
/// needs its exponentials anyway.
at::Tensor tanh_gelu_backward(const at::Tensor& grad, const at::Tensor& x,
                              at::Tensor* again = nullptr);

/// The same by a CPU's loops, of what cpu::takes() (mezzo/kernels/simd/with_type.h).
namespace cpu {

at::Tensor tanh_gelu(const at::Tensor& x);
at::Tensor tanh_gelu_backward(const at::Tensor& grad, const at::Tensor& x,
                              at::Tensor* again = nullptr);

}  // namespace cpu

/// The same by a GPU's kernels, of what cuda::takes() (mezzo/kernels/cuda/tensors.h).
namespace cuda {

at::Tensor tanh_gelu(const at::Tensor& x);
at::Tensor tanh_gelu_backward(const at::Tensor& grad, const at::Tensor& x,
                              at::Tensor* again = nullptr);

}  // namespace cuda
}  // namespace mezzo::kernels
