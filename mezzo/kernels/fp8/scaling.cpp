#include "mezzo/kernels/fp8/scaling.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kMostAmaxes = 1024;

at::Tensor scale_of(const at::Tensor& amax, double largest) {
  const at::Tensor quotient = (at::ones_like(amax) * largest / amax).clamp(0x1p-126, 0x1p126);
  // Without its fraction a number is the power of two below it.
  const at::Tensor power = quotient.view(at::kInt).bitwise_and(0x7f800000).view(at::kFloat);
  return at::where(amax.isfinite() & (amax > 0), power.reciprocal(), at::ones_like(amax));
}

}  // namespace

const FloatFormat& fp8_format(at::ScalarType dtype) {
  MEZZO_CHECK(dtype == at::kFloat8_e4m3fn || dtype == at::kFloat8_e5m2, "fp8_format",
              "dtype must be Float8_e4m3fn or Float8_e5m2, but is {}", c10::toString(dtype));
  return dtype == at::kFloat8_e4m3fn ? kFp8E4M3 : kFp8E5M2;
}

double fp8_largest(at::ScalarType dtype, int64_t margin) {
  MEZZO_CHECK(margin >= 0 && margin <= 15, "fp8_scale",
              "margin must be in [0, 15], in binades, but is {}", margin);
  return std::ldexp(fp8_format(dtype).max, -static_cast<int>(margin));
}

at::Tensor fp8_scale(const at::Tensor& amax, at::ScalarType dtype, int64_t margin) {
  if constexpr (kHasCuda) {
    if (amax.is_cuda()) return cuda::fp8_scale(amax, dtype, margin);
  }
  return scale_of(amax, fp8_largest(dtype, margin));
}

at::Tensor fp8_amax(const at::Tensor& x) {
  if (x.numel() == 0) return at::zeros({}, x.options().dtype(at::kFloat));
  return at::linalg_vector_norm(x, INFINITY, at::OptionalIntArrayRef(), /*keepdim=*/false,
                                at::kFloat);
}

AmaxHistory amax_history(int64_t H, at::Device device) {
  MEZZO_CHECK(H >= 1 && H <= kMostAmaxes, "amax_history",
              "the history must be of 1 to {} casts, but is of {}", kMostAmaxes, H);
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  return {at::zeros({H}, options), at::zeros({}, options)};
}

at::Tensor next_fp8_scale(AmaxHistory& history, at::ScalarType dtype, int64_t margin) {
  if constexpr (kHasCuda) {
    if (history.amaxes.is_cuda()) return cuda::next_fp8_scale(history, dtype, margin);
  }
  const int64_t H = history.amaxes.size(0);
  const at::Tensor moved = at::cat({history.latest.view({1}), history.amaxes.narrow(0, 0, H - 1)});
  history.amaxes.copy_(at::where(history.latest.isfinite(), moved, history.amaxes));
  history.latest.zero_();
  return scale_of(history.amaxes.max(), fp8_largest(dtype, margin));
}

}  // namespace mezzo::kernels
