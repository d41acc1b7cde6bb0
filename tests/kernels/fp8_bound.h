#pragma once

#include <ATen/ATen.h>

#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/scaling.h"

namespace mezzo::kernels {

/// scale * values as fp32.
inline at::Tensor fp8_wide(const Fp8& x) { return x.values.to(at::kFloat) * x.scale; }

/// How far a cast may be off: half the last digit, or half a step where the quotient is small.
inline at::Tensor cast_bound(const at::Tensor& x, const at::Tensor& scale, at::ScalarType dtype) {
  const FloatFormat& format = fp8_format(dtype);
  const double step = scale.cpu().item<double>() * format.smallest_subnormal;
  const at::Tensor exact = x.detach().cpu().to(at::kDouble);
  return (exact.abs() * (format.epsilon / 2)).clamp_min(step / 2);
}

}  // namespace mezzo::kernels
