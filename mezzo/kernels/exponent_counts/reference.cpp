#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>

#include "mezzo/kernels/exponent_counts/exponent_counts.h"

namespace mezzo::kernels::reference {

ExponentCounts exponent_counts(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  ExponentCounts counts;
  if (tensor.numel() == 0) return counts;
  const at::Tensor numbers = tensor.detach().to(at::kFloat).contiguous().view(-1);
  const at::Tensor exponents =
      numbers.view(at::kInt).bitwise_and(0x7fffffff).bitwise_right_shift(23);
  const at::Tensor bins =
      at::bincount(exponents, /*weights=*/{}, /*minlength=*/counts.by_exponent.size()).to(at::kCPU);
  std::copy_n(bins.const_data_ptr<int64_t>(), counts.by_exponent.size(),
              counts.by_exponent.begin());
  const at::Tensor finite = at::where(numbers.isfinite(), numbers, numbers.new_zeros({}));
  counts.zeros = numbers.eq(0.0).sum().item<int64_t>();
  counts.largest = finite.abs().max().item<double>();
  counts.sum_squares = finite.to(at::kDouble).square().sum().item<double>();
  return counts;
}

}  // namespace mezzo::kernels::reference
