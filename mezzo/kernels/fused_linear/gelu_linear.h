#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The end of a transformer's MLP as one node of autograd: y = gelu(x) W^T + b, the tanh form.
///
///   x          [..., C] fp32, bf16 or fp16, in the dtype of weight
///   weight     [N, C], bias [N] of any float type, or none
///   recompute  gelu(x) is not kept for the backward pass, but made again from x: 2 C bytes a row
///              less in 16 bits, C being four times the model's width
///   returns    [..., N] in the dtype of weight
/// The op mezzo::gelu_linear of the dispatcher: under Autocast x and weight are cast. No double
/// backward. See gelu.h.
at::Tensor gelu_linear(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, bool recompute);

}  // namespace mezzo::kernels
