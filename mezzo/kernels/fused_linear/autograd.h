#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The kernels of the ops, for every device: their nodes of autograd. Arguments as in
/// residual_norm_linear.h, attention_linear.h, gelu_linear.h and swiglu_linear.h.
/// @{
std::tuple<at::Tensor, at::Tensor> residual_norm_linear_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const std::optional<at::Tensor>& norm_bias, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps, bool recompute);

std::tuple<at::Tensor, at::Tensor> residual_rms_norm_linear_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps, bool recompute);

at::Tensor attention_linear_autograd(const at::Tensor& qkv, int64_t heads, const at::Tensor& weight,
                                     const std::optional<at::Tensor>& bias);

at::Tensor gelu_linear_autograd(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias, bool recompute);

at::Tensor swiglu_linear_autograd(const at::Tensor& gate_up, const at::Tensor& weight,
                                  const std::optional<at::Tensor>& bias, bool recompute);
/// @}

}  // namespace mezzo::kernels
