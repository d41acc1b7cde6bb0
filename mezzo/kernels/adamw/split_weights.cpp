#include "mezzo/kernels/adamw/split_weights.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>

#include "mezzo/base/check.h"

namespace mezzo::kernels {

SplitWeight split(const at::Tensor& w) {
  MEZZO_CHECK(w.scalar_type() == at::kFloat, "split", "a weight must be fp32, but is {}",
              c10::toString(w.scalar_type()));
  const at::NoGradGuard no_grad;
  const auto bits = w.detach().view(at::kInt);
  const auto is_nan = w.isnan();
  const auto rounded = (bits + 0x8000).bitwise_right_shift(16);
  const auto nan = bits.bitwise_right_shift(16).bitwise_or(0x40);
  const auto as_w = [&](at::ScalarType dtype) {
    return at::empty_like(w, w.options().dtype(dtype).requires_grad(false));
  };
  const auto high = at::where(is_nan, nan, rounded).to(at::kShort).view(at::kBFloat16);
  return {as_w(at::kBFloat16).copy_(high), as_w(at::kShort).copy_(bits.masked_fill(is_nan, 0))};
}

at::Tensor join(const at::Tensor& high, const at::Tensor& remainder) {
  const at::NoGradGuard no_grad;
  const auto upper = high.detach().view(at::kShort).to(at::kInt) * 65536;
  return (upper + remainder.to(at::kInt)).view(at::kFloat);
}

}  // namespace mezzo::kernels
