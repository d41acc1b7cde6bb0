#pragma once

#include <memory>
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/fp8/recipe.h"

namespace mezzo::kernels {

// residual_norm_linear.h, gelu_linear.h and swiglu_linear.h with their linear layer in FP8: what
// goes into its cast is bf16. Each is two nodes of autograd; autocast has nothing to cast where a
// recipe does. They throw as fp8_linear() does.

/// {sum, y}: sum = x + branch, y = layer_norm(sum) W^T + b. Arguments as in residual_norm_linear.h,
/// recipe as in fp8/linear.h.
///   recompute  also the FP8 copy of the normalised rows is made again from sum: what is kept of a
///              row is sum, mean and rstd
///   returns    sum in the dtype of x, y [..., N] bf16
std::tuple<at::Tensor, at::Tensor> residual_norm_fp8_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const std::optional<at::Tensor>& norm_bias, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps, bool recompute,
    const std::shared_ptr<Fp8Recipe>& recipe);

/// The same with RMSNorm, which has no bias.
std::tuple<at::Tensor, at::Tensor> residual_rms_norm_fp8_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps, bool recompute,
    const std::shared_ptr<Fp8Recipe>& recipe);

/// gelu(x) W^T + b, [..., N] bf16. Arguments as in gelu_linear.h.
///   recompute  also the FP8 copy of gelu(x) is made again from x
at::Tensor gelu_fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias, bool recompute,
                           const std::shared_ptr<Fp8Recipe>& recipe);

/// (silu(gate) * up) W^T + b, [..., N] bf16. Arguments as in swiglu_linear.h.
///   recompute  also the FP8 copy of silu(gate) * up is made again from gate_up
at::Tensor swiglu_fp8_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                             const std::optional<at::Tensor>& bias, bool recompute,
                             const std::shared_ptr<Fp8Recipe>& recipe);

}  // namespace mezzo::kernels
