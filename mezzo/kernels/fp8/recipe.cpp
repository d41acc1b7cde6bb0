#include "mezzo/kernels/fp8/recipe.h"

#include "mezzo/base/check.h"

namespace mezzo::kernels {

Fp8Caster::Fp8Caster(at::ScalarType dtype, const Fp8Scaling& scaling)
    : dtype_(dtype), scaling_(scaling) {
  static_cast<void>(fp8_format(dtype));
}

Fp8 Fp8Caster::cast(const at::Tensor& x, bool transposes, bool remembers) {
  const at::Tensor scale = scale_for(x, remembers);
  return fp8_cast(x, scale, {dtype_, transposes, remembers ? history_.latest : at::Tensor()});
}

Fp8 Fp8Caster::cast_again(const at::Tensor& x, const at::Tensor& scale) const {
  return fp8_cast(x, scale, {dtype_, /*transposes=*/true});
}

at::Tensor Fp8Caster::scale_for(const at::Tensor& x, bool remembers) {
  const bool is_first = !history_.amaxes.defined();
  if (!scaling_.is_delayed || (is_first && !remembers))
    return fp8_scale(fp8_amax(x), dtype_, scaling_.margin);
  if (is_first) {
    history_ = amax_history(scaling_.history, x.device());
    history_.latest.copy_(fp8_amax(x));
  }
  AmaxHistory moved = history_;
  if (!remembers) moved = {history_.amaxes.clone(), history_.latest.clone()};
  return next_fp8_scale(moved, dtype_, scaling_.margin);
}

void Fp8Caster::set_history(const AmaxHistory& history) {
  MEZZO_CHECK(scaling_.is_delayed, "fp8_caster", "current scaling has no history to be set");
  if (!history.amaxes.defined()) {
    history_ = {};
    return;
  }
  MEZZO_CHECK(history.amaxes.numel() == scaling_.history, "fp8_caster",
              "the history must be of {} casts, but is of {}", scaling_.history,
              history.amaxes.numel());
  if (!history_.amaxes.defined()) {
    history_ = {history.amaxes.clone(), history.latest.clone()};
    return;
  }
  history_.amaxes.copy_(history.amaxes);
  history_.latest.copy_(history.latest);
}

}  // namespace mezzo::kernels
