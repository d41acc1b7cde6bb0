#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>

#include "mezzo/kernels/grad_check/grad_check.h"

namespace mezzo::kernels::reference {
namespace {

int64_t count(const at::Tensor& is_one) { return is_one.sum().item<int64_t>(); }

void multiply_(const at::Tensor& grad, float factor) {
  // With one dimension it promotes the product to fp32: as a 0-dim tensor it would be rounded to
  // the gradient's 16 bits first on CUDA.
  const at::Tensor factors = at::full({1}, factor, grad.options().dtype(at::kFloat));
  grad.mul_(grad.dim() == 0 ? factors.squeeze() : factors);
}

}  // namespace

TensorStats check_and_unscale_(const at::Tensor& grad, float inv_scale, double smallest_normal) {
  const at::NoGradGuard no_grad;
  TensorStats facts;
  facts.numel = grad.numel();
  if (facts.numel == 0) return facts;
  const at::Tensor values = grad.to(at::kDouble), magnitudes = values.abs();
  facts.nan = count(at::isnan(values));
  facts.positive_inf = count(values.eq(INFINITY));
  facts.negative_inf = count(values.eq(-INFINITY));
  facts.zeros = count(values.eq(0));
  facts.subnormals = count(magnitudes.lt(smallest_normal)) - facts.zeros;
  facts.largest =
      magnitudes.masked_fill(at::isfinite(values).logical_not(), 0).max().item<double>();
  if (inv_scale != 1.0f) multiply_(grad, inv_scale);
  return facts;
}

}  // namespace mezzo::kernels::reference
