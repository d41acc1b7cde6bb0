#include <ATen/TensorOperators.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>

#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/scaling.h"

namespace mezzo::kernels::reference {

Fp8 fp8_cast(const at::Tensor& x_in, const at::Tensor& scale, const Fp8Cast& cast) {
  const double max = fp8_format(cast.dtype).max;
  const at::Tensor x = x_in.to(at::kFloat);
  // Only what is finite saturates.
  const at::Tensor bounded = at::where(x.isfinite(), (x / scale).clamp(-max, max), x);
  Fp8 result{bounded.to(cast.dtype).contiguous(), {}, scale};
  if (cast.transposes) result.transposed = result.values.t().contiguous();
  if (cast.amax.defined()) cast.amax.copy_(at::maximum(cast.amax, fp8_amax(x)));
  return result;
}

}  // namespace mezzo::kernels::reference
