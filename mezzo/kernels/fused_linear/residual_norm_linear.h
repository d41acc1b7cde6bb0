#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// Half a transformer block's beginning, as one node of autograd:
///
///   sum = x + branch;  y = layer_norm(sum) W^T + b
///
///   x            [..., C]  the residual stream, fp32, bf16 or fp16
///   branch       [..., C]  or none: what the last block left to add
///   norm_weight  [C], norm_bias [C] or none
///   weight       [N, C], bias [N] or none. The normalised rows, the product and y have the
///                dtype of weight, and under Autocast the region's 16-bit type.
///   recompute    the normalised rows are not kept for the backward pass, but made again from sum
///                (bit for bit): 2 C bytes a row less in 16 bits, which the backward pass writes.
///   returns      {sum, y}; sum in the dtype of x
/// The op mezzo::residual_norm_linear of the dispatcher. Gradients are those of the ops that it is
/// made of; no double backward. See residual_norm.h.
std::tuple<at::Tensor, at::Tensor> residual_norm_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const std::optional<at::Tensor>& norm_bias, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps, bool recompute);

/// The same with RMSNorm, which has no bias: the beginning of either half of a Llama block.
///
///   sum = x + branch;  y = rms_norm(sum) W^T + b
///   rms_norm(s) = s / sqrt(mean(s^2) + eps) * norm_weight
///
/// Everything is fp32 up to the one rounding of the normalised rows; Hugging Face's LlamaRMSNorm
/// rounds once more, before it multiplies by its weight. A Llama's projections of queries, keys and
/// values are one W, below each other, and so are those of gate and up. The op
/// mezzo::residual_rms_norm_linear of the dispatcher.
std::tuple<at::Tensor, at::Tensor> residual_rms_norm_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps, bool recompute);

}  // namespace mezzo::kernels
