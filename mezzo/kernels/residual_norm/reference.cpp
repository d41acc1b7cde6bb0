// Plain tensor code: the definition.

#include <ATen/TensorOperators.h>

#include "mezzo/kernels/residual_norm/residual_norm.h"

namespace mezzo::kernels::reference {
namespace {

at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// What a row is normalised from, in the type of its sums.
at::Tensor centered(const at::Tensor& sum, const at::Tensor& mean) {
  const at::Tensor wide = sum.to(sum_type(sum));
  return mean.defined() ? wide - mean.unsqueeze(-1) : wide;
}

}  // namespace

ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind) {
  const at::Tensor sum = branch.defined() ? (x + branch).to(x.scalar_type()) : x;
  const at::Tensor mean = kind == NormKind::kLayer ? sum.to(sum_type(x)).mean(-1) : at::Tensor();
  const at::Tensor rstd = (centered(sum, mean).square().mean(-1) + eps).rsqrt();
  return {sum, norm_again(sum, mean, rstd, weight, bias, dtype), mean, rstd};
}

at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype) {
  const at::ScalarType type = sum_type(sum);
  at::Tensor normed = centered(sum, mean) * rstd.unsqueeze(-1) * weight.to(type);
  if (bias.defined()) normed = normed + bias.to(type);
  return normed.to(dtype);
}

ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras) {
  const at::ScalarType type = sum_type(sum);
  const at::Tensor grad = grad_normed.to(type);
  const at::Tensor unit = centered(sum, mean) * rstd.unsqueeze(-1);
  const at::Tensor weighted = grad * weight.to(type);
  const at::Tensor across = mean.defined() ? weighted - weighted.mean(-1, true) : weighted;
  at::Tensor grad_x = rstd.unsqueeze(-1) * (across - unit * (weighted * unit).mean(-1, true));
  if (grad_sum.defined()) grad_x = grad_x + grad_sum.to(type);
  const int64_t C = sum.size(-1);
  grad_x = grad_x.to(sum.scalar_type());
  const at::ScalarType dtype = grad_normed.scalar_type();
  return {grad_x, extras.branch ? grad_x.to(dtype) : at::Tensor(),
          (grad * unit).reshape({-1, C}).sum(0), grad.reshape({-1, C}).sum(0),
          extras.normed ? norm_again(sum, mean, rstd, weight, bias, dtype) : at::Tensor()};
}

}  // namespace mezzo::kernels::reference
