#include "mezzo/kernels/fp8/recipe.h"

#include "mezzo/base/check.h"

namespace mezzo::kernels {

Fp8Caster::Fp8Caster(at::ScalarType dtype, const Fp8Scaling& scaling)
    : dtype_(dtype), scaling_(scaling) {
  static_cast<void>(fp8_format(dtype));
}

Fp8 Fp8Caster::cast(const at::Tensor& x, bool transposes) {
  const at::Tensor scale = scale_for(x);
  return fp8_cast(x, scale, {dtype_, transposes, history_.latest});
}

at::Tensor Fp8Caster::scale_for(const at::Tensor& x) {
  if (!scaling_.is_delayed) return fp8_scale(fp8_amax(x), dtype_, scaling_.margin);
  if (!history_.amaxes.defined()) {
    history_ = amax_history(scaling_.history, x.device());
    history_.latest.copy_(fp8_amax(x));
  }
  return next_fp8_scale(history_, dtype_, scaling_.margin);
}

void Fp8Caster::set_history(const AmaxHistory& history) {
  MEZZO_CHECK(scaling_.is_delayed, "fp8_caster", "current scaling has no history to be set");
  MEZZO_CHECK(history.amaxes.numel() == scaling_.history, "fp8_caster",
              "the history must be of {} casts, but is of {}", scaling_.history,
              history.amaxes.numel());
  history_ = {history.amaxes.clone(), history.latest.clone()};
}

}  // namespace mezzo::kernels
