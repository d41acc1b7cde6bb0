#include "mezzo/kernels/residual_norm/residual_norm.h"

#include <string_view>
#include <utility>

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"

namespace mezzo::kernels {
namespace {

void check_arguments(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                     const at::Tensor& bias) {
  MEZZO_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1), "residual_norm",
              "weight must have the size of the last dimension of x, [{}], but has [{}]",
              fmt::join(x.sizes(), ", "), fmt::join(weight.sizes(), ", "));
  MEZZO_CHECK(!branch.defined() || branch.sizes() == x.sizes(), "residual_norm",
              "branch must have the shape of x, [{}], but has [{}]", fmt::join(x.sizes(), ", "),
              fmt::join(branch.sizes(), ", "));
  MEZZO_CHECK(!bias.defined() || bias.sizes() == weight.sizes(), "residual_norm",
              "bias must have the shape of weight, [{}], but has [{}]",
              fmt::join(weight.sizes(), ", "), fmt::join(bias.sizes(), ", "));
  const std::pair<std::string_view, const at::Tensor&> others[] = {
      {"branch", branch}, {"weight", weight}, {"bias", bias}};
  for (const auto& [name, other] : others) {
    MEZZO_CHECK(!other.defined() || other.device() == x.device(), "residual_norm",
                "{} must be on the device of x, {}, but is on {}", name, x.device().str(),
                other.device().str());
  }
}

}  // namespace

ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind) {
  check_arguments(x, branch, weight, bias);
  if constexpr (kHasCuda) {
    if (cuda::takes_norm(x, dtype))
      return cuda::residual_norm(x, branch, weight, bias, eps, dtype, kind);
  }
  if (cpu::takes_norm(x, dtype))
    return cpu::residual_norm(x, branch, weight, bias, eps, dtype, kind);
  return reference::residual_norm(x, branch, weight, bias, eps, dtype, kind);
}

at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype) {
  if constexpr (kHasCuda) {
    if (cuda::takes_norm(sum, dtype)) return cuda::norm_again(sum, mean, rstd, weight, bias, dtype);
  }
  if (cpu::takes_norm(sum, dtype)) return cpu::norm_again(sum, mean, rstd, weight, bias, dtype);
  return reference::norm_again(sum, mean, rstd, weight, bias, dtype);
}

ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras) {
  const at::ScalarType dtype = grad_normed.scalar_type();
  if constexpr (kHasCuda) {
    if (cuda::takes_norm(sum, dtype))
      return cuda::residual_norm_backward(grad_normed, grad_sum, sum, mean, rstd, weight, bias,
                                          extras);
  }
  if (cpu::takes_norm(sum, dtype))
    return cpu::residual_norm_backward(grad_normed, grad_sum, sum, mean, rstd, weight, bias,
                                       extras);
  return reference::residual_norm_backward(grad_normed, grad_sum, sum, mean, rstd, weight, bias,
                                           extras);
}

}  // namespace mezzo::kernels
