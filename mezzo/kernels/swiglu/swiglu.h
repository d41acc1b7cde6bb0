#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// The gate of SwiGLU (Shazeer, arXiv 2002.05202, eq. 6, with beta = 1 and no bias, as the models of
// the field have it): swiglu(gate, up) = silu(gate) * up, silu(g) = g sigmoid(g). Gate and up stand
// side by side in one tensor, as one product makes them: [..., 2 C], the gate first. Below
// autograd.

/// gate_up [..., 2 C] fp32, bf16 or fp16 -> [..., C] of the same dtype; computed in fp32 and
/// rounded once. Error in fp32: 8 ULP. Other dtypes and devices go to libtorch's ops.
/// Throws Error where the last size is odd.
at::Tensor swiglu(const at::Tensor& gate_up);

/// The gradient of gate_up, in its dtype and layout: {grad up silu'(gate), grad silu(gate)}, with
/// silu'(g) = s + g s (1 - s), s = sigmoid(g). grad must be [..., C] of the dtype of gate_up, or
/// Error is thrown. `again`, if it is not null, becomes swiglu(gate_up), bit for bit.
at::Tensor swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up,
                           at::Tensor* again = nullptr);

/// The same by a CPU's loops, of what cpu::takes() (mezzo/kernels/simd/with_type.h).
namespace cpu {

at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up,
                           at::Tensor* again = nullptr);

}  // namespace cpu

/// The same by a GPU's kernels, of what cuda::takes() (mezzo/kernels/cuda/tensors.h).
namespace cuda {

at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up,
                           at::Tensor* again = nullptr);

}  // namespace cuda
}  // namespace mezzo::kernels
