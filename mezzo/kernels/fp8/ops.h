#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// Kernels that write raw memory are ops of the dispatcher: the doctor then knows of whom a number
// is. FP8's have no row in autocast's table, and run on what they are given.

/// {values, transposed} of fp8_cast() in cast.h.
std::tuple<at::Tensor, at::Tensor> fp8_cast_op(const at::Tensor& x, const at::Tensor& scale,
                                               at::ScalarType dtype, bool transposes,
                                               const std::optional<at::Tensor>& amax);

/// {sum, normed in bf16, mean, rstd} of residual_norm() as a node of autograd; the last two have no
/// gradient.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> residual_norm_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps);

/// {sum, normed in bf16, rstd} of the same with RMSNorm.
std::tuple<at::Tensor, at::Tensor, at::Tensor> residual_rms_norm_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& weight,
    double eps);

/// swiglu() as a node of autograd, which keeps gate_up alone.
at::Tensor swiglu_autograd(const at::Tensor& gate_up);

}  // namespace mezzo::kernels
