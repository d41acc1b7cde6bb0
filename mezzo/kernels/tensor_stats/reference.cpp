#include <limits>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/where.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels::reference {
namespace {

int64_t count(const at::Tensor& is_so) { return is_so.sum().item<int64_t>(); }

}  // namespace

TensorStats tensor_stats(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  at::Tensor values = tensor.detach();
  if (values.is_sparse()) values = values._values();
  if (values.is_complex()) values = at::view_as_real(values.resolve_conj());
  TensorStats stats;
  stats.numel = values.numel();
  if (!values.is_floating_point() || stats.numel == 0) return stats;
  if (values.element_size() == 1) values = values.to(at::kHalf);  // fp8: exact but for e8m0
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const double smallest_normal = float_format(values.scalar_type()).smallest_normal;
  values = values.to(at::kDouble);
  const at::Tensor magnitudes = values.abs();
  stats.nan = count(values.isnan());
  stats.positive_inf = count(values.eq(kInf));
  stats.negative_inf = count(values.eq(-kInf));
  stats.zeros = count(values.eq(0.0));
  stats.subnormals = count(magnitudes.lt(smallest_normal).logical_and(values.ne(0.0)));
  stats.largest =
      at::where(values.isfinite(), magnitudes, magnitudes.new_zeros({})).max().item<double>();
  return stats;
}

}  // namespace mezzo::kernels::reference
