#include "mezzo/kernels/fp8/cast.h"

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/fp8/ops.h"
#include "mezzo/kernels/fp8/scaling.h"
#include "mezzo/kernels/ops.h"

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

Fp8 cast_on_device(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast) {
  if constexpr (kHasCuda) {
    if (x.is_cuda()) return cuda::fp8_cast(x, scale, cast);
  }
  return reference::fp8_cast(x, scale, cast);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> fp8_cast_op(const at::Tensor& x, const at::Tensor& scale,
                                               at::ScalarType dtype, bool transposes,
                                               const std::optional<at::Tensor>& amax) {
  const Fp8Cast cast{dtype, transposes, amax.value_or(at::Tensor())};
  check_arguments(x, scale, cast);
  const Fp8 result = cast_on_device(x, scale, cast);
  return {result.values, result.transposed};
}

Fp8 fp8_cast(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast) {
  static const auto op = typed_op<decltype(fp8_cast_op)>("mezzo::fp8_cast");
  std::optional<at::Tensor> amax;
  if (cast.amax.defined()) amax = cast.amax;
  const auto [values, transposed] = op.call(x, scale, cast.dtype, cast.transposes, amax);
  return {values, transposed, scale};
}

}  // namespace mezzo::kernels
