#include "mezzo/amp/scale_update.h"

#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>

namespace mezzo {
namespace {

at::Tensor times(const at::Tensor& scale, double factor) {
  return (scale.to(at::kDouble) * factor).to(at::kFloat);
}

}  // namespace

at::Device scale_device(at::Device asked, at::Device outputs) {
  return !asked.has_index() && asked.type() == outputs.type() ? outputs : asked;
}

void update_scale_(ScaleTensors& tensors, const at::Tensor& found_inf,
                   const GradScalerOptions& options) {
  if (options.hysteresis > 1) {
    update_scale_plain_(tensors, found_inf, options);
    return;
  }
  at::_amp_update_scale_(tensors.scale, tensors.growth_tracker, found_inf, options.growth_factor,
                         options.backoff_factor, options.growth_interval);
  tensors.scale.clamp_(options.min_scale, options.max_scale);
}

void update_scale_plain_(ScaleTensors& tensors, const at::Tensor& found_inf,
                         const GradScalerOptions& options) {
  const at::Tensor is_bad = found_inf.ne(0).squeeze();
  const at::Tensor is_good = is_bad.logical_not();

  const at::Tensor good_steps = (tensors.growth_tracker + 1) * is_good;
  const at::Tensor grows = good_steps.eq(options.growth_interval);
  const at::Tensor hysteresis_left =
      (tensors.hysteresis_tracker - is_bad.to(at::kInt)).clamp_min(0);
  const at::Tensor backs_off = is_bad.logical_and(hysteresis_left.eq(0));

  const at::Tensor grown = times(tensors.scale, options.growth_factor);
  const at::Tensor raised = at::where(grows.logical_and(at::isfinite(grown)), grown, tensors.scale);
  const at::Tensor moved =
      at::where(backs_off, times(tensors.scale, options.backoff_factor), raised);
  const at::Tensor refills = options.consecutive_hysteresis ? is_good : grows;

  tensors.scale.copy_(moved.clamp(options.min_scale, options.max_scale));
  tensors.growth_tracker.copy_(good_steps * grows.logical_not());
  tensors.hysteresis_tracker.copy_(hysteresis_left).masked_fill_(refills, options.hysteresis);
}

at::Tensor overflows_at_floor(const ScaleTensors& tensors, const at::Tensor& found_inf,
                              const GradScalerOptions& options) {
  // In fp32, as the scale is: a min_scale of 0.7 is above the fp32 number next to it.
  const auto min_scale = static_cast<float>(options.min_scale);
  const at::Tensor would_back_off =
      found_inf.ne(0).squeeze().logical_and(tensors.scale.le(min_scale));
  return options.hysteresis == 1 ? would_back_off
                                 : would_back_off.logical_and(tensors.hysteresis_tracker.le(1));
}

}  // namespace mezzo
