#include <cmath>
#include <numbers>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/rope/rope.h"

namespace mezzo::kernels {
namespace {

void check(const Llama3Scaling& scaling) {
  MEZZO_CHECK(scaling.factor > 0 && scaling.original_context > 0, "rope_table",
              "factor and original_context must be > 0, but are {} and {}", scaling.factor,
              scaling.original_context);
  MEZZO_CHECK(scaling.high_freq_factor > scaling.low_freq_factor, "rope_table",
              "high_freq_factor must be > low_freq_factor, but they are {} and {}",
              scaling.high_freq_factor, scaling.low_freq_factor);
}

at::Tensor scaled(const at::Tensor& frequency, const Llama3Scaling& scaling) {
  check(scaling);
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  const at::Tensor turns =
      frequency * (static_cast<double>(scaling.original_context) / (2 * std::numbers::pi));
  const at::Tensor kept = ((turns - low) / (high - low)).clamp(0, 1);
  return frequency * (kept + (1 - kept) / scaling.factor);
}

}  // namespace

at::Tensor rope_table(int64_t positions, int64_t D, const RopeOptions& options) {
  MEZZO_CHECK(positions >= 0, "rope_table", "positions must be >= 0, but are {}", positions);
  MEZZO_CHECK(D > 0 && D % 2 == 0, "rope_table",
              "D, of a head, must be even and > 0, but is {}. Hint: it is made of pairs", D);
  MEZZO_CHECK(std::isfinite(options.base) && options.base > 0, "rope_table",
              "base must be finite and > 0, but is {}", options.base);
  at::Tensor frequency =
      at::pow(options.base, at::arange(0, D, 2, at::kDouble) / -static_cast<double>(D));
  if (options.scaling.has_value()) frequency = scaled(frequency, *options.scaling);
  const at::Tensor angles = at::outer(at::arange(positions, at::kDouble), frequency);
  return at::cat({angles.cos(), angles.sin()}, 1).to(at::kFloat);
}

}  // namespace mezzo::kernels
