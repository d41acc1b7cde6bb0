#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The end of a gated MLP as one node of autograd: y = (silu(gate) * up) W^T + b.
///
///   gate_up    [..., 2 C] fp32, bf16 or fp16, in the dtype of weight: gate and up side by side, as
///              one linear layer of 2 C outputs makes them
///   weight     [N, C], bias [N] of any float type, or none
///   recompute  silu(gate) * up is not kept for the backward pass, but made again: 2 C bytes a row
///              less in 16 bits
///   returns    [..., N] in the dtype of weight
/// silu(gate), which libtorch's ops keep as well, is never stored. The op mezzo::swiglu_linear of
/// the dispatcher: under Autocast gate_up and weight are cast. No double backward. See swiglu.h.
at::Tensor swiglu_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                         const std::optional<at::Tensor>& bias, bool recompute);

}  // namespace mezzo::kernels
