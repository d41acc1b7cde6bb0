// scaling.h and cast.h on a GPU: tensors to addresses.

#include "mezzo/kernels/fp8/cuda.h"

#include <ATen/ops/empty.h>

#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/scaling.h"

namespace mezzo::kernels::cuda {

at::Tensor fp8_scale(const at::Tensor& amax, at::ScalarType dtype, int64_t margin) {
  const LaunchGuard launch(amax);
  at::Tensor scale = at::empty({}, amax.options());
  launch_fp8_scale({.amax = amax.mutable_data_ptr<float>(),
                    .amaxes = nullptr,
                    .scale = scale.mutable_data_ptr<float>(),
                    .H = 1,
                    .largest = static_cast<float>(fp8_largest(dtype, margin))},
                   launch.stream());
  return scale;
}

at::Tensor next_fp8_scale(AmaxHistory& history, at::ScalarType dtype, int64_t margin) {
  const LaunchGuard launch(history.latest);
  at::Tensor scale = at::empty({}, history.latest.options());
  launch_fp8_scale({.amax = history.latest.mutable_data_ptr<float>(),
                    .amaxes = history.amaxes.mutable_data_ptr<float>(),
                    .scale = scale.mutable_data_ptr<float>(),
                    .H = history.amaxes.numel(),
                    .largest = static_cast<float>(fp8_largest(dtype, margin))},
                   launch.stream());
  return scale;
}

Fp8 fp8_cast(const at::Tensor& x_in, const at::Tensor& scale, const Fp8Cast& cast) {
  const LaunchGuard launch(x_in);
  const at::Tensor x = aligned(x_in);
  const int64_t rows = x.size(0), C = x.size(1);
  Fp8 result{at::empty({rows, C}, x.options().dtype(cast.dtype)), {}, scale};
  if (cast.transposes) result.transposed = at::empty({C, rows}, result.values.options());
  launch_fp8_cast(
      {.x = x.const_data_ptr(),
       .scale = scale.const_data_ptr<float>(),
       .values = result.values.mutable_data_ptr(),
       .transposed = cast.transposes ? result.transposed.mutable_data_ptr() : nullptr,
       .amax = cast.amax.defined() ? cast.amax.mutable_data_ptr<float>() : nullptr,
       .rows = rows,
       .C = C,
       .dtype = dtype_of(x.scalar_type()),
       .format = cast.dtype == at::kFloat8_e4m3fn ? Fp8Format::kE4M3 : Fp8Format::kE5M2},
      launch.stream());
  return result;
}

}  // namespace mezzo::kernels::cuda
