#include "mezzo/kernels/adamw/split_weights.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>

#include "mezzo/base/check.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kPart = int64_t{1} << 20;

// A few tensors as large as w lie beside it meanwhile.
void split_part(const at::Tensor& w, const at::Tensor& high, const at::Tensor& remainder) {
  const auto bits = w.view(at::kInt);
  const auto is_nan = w.isnan();
  const auto rounded = (bits + 0x8000).bitwise_right_shift(16);
  const auto nan = bits.bitwise_right_shift(16).bitwise_or(0x40);
  high.copy_(at::where(is_nan, nan, rounded).to(at::kShort).view(at::kBFloat16));
  remainder.copy_(bits.masked_fill(is_nan, 0));
}

}  // namespace

SplitWeight split(const at::Tensor& weight) {
  MEZZO_CHECK(weight.scalar_type() == at::kFloat, "split", "a weight must be fp32, but is {}",
              c10::toString(weight.scalar_type()));
  const at::NoGradGuard no_grad;
  const at::Tensor w = weight.detach();
  SplitWeight halves{at::empty_like(w, at::kBFloat16), at::empty_like(w, at::kShort)};
  if (!w.is_contiguous()) {
    split_part(w, halves.high, halves.remainder);
    return halves;
  }
  for (int64_t begin = 0; begin < w.numel(); begin += kPart) {
    const auto part = [&](const at::Tensor& whole) {
      return whole.view(-1).narrow(0, begin, std::min(kPart, w.numel() - begin));
    };
    split_part(part(w), part(halves.high), part(halves.remainder));
  }
  return halves;
}

at::Tensor join(const at::Tensor& high, const at::Tensor& remainder) {
  const at::NoGradGuard no_grad;
  const auto upper = high.detach().view(at::kShort).to(at::kInt) * 65536;
  return (upper + remainder.to(at::kInt)).view(at::kFloat);
}

}  // namespace mezzo::kernels
