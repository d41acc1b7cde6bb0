#include "mezzo/kernels/fp8/cast.h"

#include <ATen/TensorOperators.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/fp8/scaling.h"

namespace mezzo::kernels {
namespace {

void check_scalar(const at::Tensor& scalar, const at::Tensor& x, std::string_view name) {
  MEZZO_CHECK(scalar.numel() == 1 && scalar.scalar_type() == at::kFloat, "fp8_cast",
              "{} must be one fp32 number, but is {} numbers of {}", name, scalar.numel(),
              c10::toString(scalar.scalar_type()));
  MEZZO_CHECK(scalar.device() == x.device(), "fp8_cast", "{} must be on {} as x, but is on {}",
              name, x.device().str(), scalar.device().str());
}

void check_arguments(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast) {
  MEZZO_CHECK(x.dim() == 2, "fp8_cast", "x must be [rows, C], but has {} dimensions", x.dim());
  const at::ScalarType dtype = x.scalar_type();
  MEZZO_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf, "fp8_cast",
              "x must be fp32, bf16 or fp16, but is {}", c10::toString(dtype));
  static_cast<void>(fp8_format(cast.dtype));
  check_scalar(scale, x, "scale");
  if (cast.amax.defined()) check_scalar(cast.amax, x, "amax");
}

}  // namespace

Fp8 fp8_cast(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast) {
  check_arguments(x, scale, cast);
  if constexpr (kHasCuda) {
    if (x.is_cuda()) return cuda::fp8_cast(x, scale, cast);
  }
  return reference::fp8_cast(x, scale, cast);
}

at::Tensor fp8_wide(const Fp8& x) { return x.values.to(at::kFloat) * x.scale; }

}  // namespace mezzo::kernels
