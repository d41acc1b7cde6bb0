#include "mezzo/amp/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include <fmt/ranges.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scaled_step.h"

namespace mezzo {
namespace {

void check_growth_factor(double factor) {
  MEZZO_CHECK(factor > 1.0 && std::isfinite(factor), "GradScaler",
              "growth_factor must be > 1, but is {}", factor);
}

void check_backoff_factor(double factor) {
  MEZZO_CHECK(factor > 0.0 && factor < 1.0, "GradScaler",
              "backoff_factor must be in (0, 1), but is {}", factor);
}

void check_growth_interval(int64_t interval) {
  MEZZO_CHECK(interval > 0, "GradScaler", "growth_interval must be > 0, but is {}", interval);
}

void check_scale(double scale) {
  MEZZO_CHECK(scale > 0.0 && scale <= std::numeric_limits<float>::max(), "GradScaler",
              "the scale must be > 0 and finite in fp32, but is {}", scale);
}

at::TensorOptions fp32_on(at::Device device) {
  return at::TensorOptions().dtype(at::kFloat).device(device);
}

// The tensor that holds the gradient's numbers. An fp16 sparse gradient is summed over its
// duplicate indices first: 64000 + 64000 at one index is an overflow that its values alone do not
// show.
at::Tensor values_to_unscale(at::Tensor& grad) {
  if (!grad.is_sparse()) return grad;
  if (grad.scalar_type() == at::kHalf) grad = grad.coalesce();
  return grad._values();
}

}  // namespace

GradScaler::GradScaler(at::Device device, GradScalerOptions options)
    : device_(device), options_(options) {
  if (!options_.enabled) return;
  check_scale(options_.init_scale);
  check_growth_factor(options_.growth_factor);
  check_backoff_factor(options_.backoff_factor);
  check_growth_interval(options_.growth_interval);
  // 2^-127 is where 1 / scale stops being a finite fp32 number.
  MEZZO_CHECK(options_.min_scale > 0x1p-127 && options_.min_scale <= options_.init_scale,
              "GradScaler", "min_scale must be in (2^-127, init_scale = {}], but is {}",
              options_.init_scale, options_.min_scale);
}

at::Tensor GradScaler::scale(const at::Tensor& outputs) {
  if (!options_.enabled) return outputs;
  if (!scale_.defined()) init_scale_tensors();
  const bool is_16_bit = at::isReducedFloatingType(outputs.scalar_type());
  return (is_16_bit ? outputs.to(at::kFloat) : outputs) *
         scale_.to(outputs.device(), /*non_blocking=*/true);
}

std::vector<at::Tensor> GradScaler::scale(const std::vector<at::Tensor>& outputs) {
  std::vector<at::Tensor> scaled;
  scaled.reserve(outputs.size());
  for (const at::Tensor& output : outputs) scaled.push_back(scale(output));
  return scaled;
}

void GradScaler::unscale_(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled) return;
  check_scaled("unscale_");
  PerOptimizer& state = per_optimizer_[&optimizer];
  MEZZO_CHECK(
      state.stage != Stage::kUnscaled, "GradScaler.unscale_",
      "called twice for this optimizer since the last update(); call update() once per step");
  MEZZO_CHECK(state.stage != Stage::kStepped, "GradScaler.unscale_",
              "called after step() for this optimizer; call it between backward() and step()");
  // In fp64: 1 / scale is inexact in fp32 once the scale is not a power of two.
  const at::Tensor inv_scale = scale_.to(at::kDouble).reciprocal().to(at::kFloat);
  state.found_inf_per_device = unscale_grads(optimizer, inv_scale, options_.allow_fp16_grads);
  state.stage = Stage::kUnscaled;
}

void GradScaler::step(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled) {
    optimizer.step();
    return;
  }
  check_scaled("step");
  PerOptimizer& state = per_optimizer_[&optimizer];
  MEZZO_CHECK(
      state.stage != Stage::kStepped, "GradScaler.step",
      "called twice for this optimizer since the last update(); call update() once per step");
  if (dynamic_cast<ScaledStep*>(&optimizer) != nullptr) {
    step_on_device(optimizer, state);
  } else {
    step_on_host(optimizer, state);
  }
  state.stage = Stage::kStepped;
}

void GradScaler::step_on_device(torch::optim::Optimizer& optimizer, PerOptimizer& state) {
  std::optional<at::Tensor> grad_scale;
  if (state.stage == Stage::kReady) {
    // An inverse of one checks and changes nothing; the optimizer's own pass divides by the scale.
    const at::Tensor one = at::full({}, 1.0, fp32_on(device_));
    state.found_inf_per_device = unscale_grads(optimizer, one, /*allow_fp16=*/true);
    grad_scale = scale_;
  }
  dynamic_cast<ScaledStep&>(optimizer).scaled_step(grad_scale, combined_found_inf(state));
}

void GradScaler::step_on_host(torch::optim::Optimizer& optimizer, PerOptimizer& state) {
  if (state.stage == Stage::kReady) unscale_(optimizer);
  MEZZO_CHECK(
      !state.found_inf_per_device.empty(), "GradScaler.step",
      "no parameter of this optimizer has a gradient. Hint: call scale(loss).backward() first");
  if (combined_found_inf(state).item<float>() == 0.0f) optimizer.step();
}

void GradScaler::update(std::optional<double> new_scale) {
  if (!options_.enabled) return;
  check_scaled("update");
  if (new_scale.has_value()) {
    check_scale(*new_scale);
    scale_.fill_(*new_scale);
  } else {
    at::Tensor found_inf;
    for (const auto& [optimizer, state] : per_optimizer_) {
      if (state.found_inf_per_device.empty()) continue;
      const at::Tensor one = combined_found_inf(state);
      found_inf = found_inf.defined() ? at::maximum(found_inf, one) : one;
    }
    MEZZO_CHECK(
        found_inf.defined(), "GradScaler.update",
        "no gradient was checked since the last update(). Hint: call step() or unscale_() first");
    if (options_.is_dynamic) adjust_scale(found_inf);
  }
  per_optimizer_.clear();
}

void GradScaler::adjust_scale(const at::Tensor& found_inf) {
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf, options_.growth_factor,
                         options_.backoff_factor, options_.growth_interval);
  scale_.clamp_min_(options_.min_scale);
}

bool GradScaler::found_inf(const torch::optim::Optimizer& optimizer) const {
  if (!options_.enabled) return false;
  const auto state = per_optimizer_.find(&optimizer);
  MEZZO_CHECK(state != per_optimizer_.end(), "GradScaler.found_inf",
              "nothing is known of this optimizer since the last update(); call it after "
              "unscale_() or step()");
  return combined_found_inf(state->second).item<float>() != 0.0f;
}

double GradScaler::get_scale() const {
  if (!options_.enabled) return 1.0;
  return scale_.defined() ? scale_.item<float>() : options_.init_scale;
}

int64_t GradScaler::get_growth_tracker() const {
  if (!options_.enabled) return 0;
  return growth_tracker_.defined() ? growth_tracker_.item<int32_t>() : init_growth_tracker_;
}

void GradScaler::set_growth_factor(double factor) {
  check_growth_factor(factor);
  options_.growth_factor = factor;
}

void GradScaler::set_backoff_factor(double factor) {
  check_backoff_factor(factor);
  options_.backoff_factor = factor;
}

void GradScaler::set_growth_interval(int64_t interval) {
  check_growth_interval(interval);
  options_.growth_interval = interval;
  // The update kernel grows when tracker + 1 equals the interval: a tracker beyond it would never
  // grow again.
  init_growth_tracker_ = std::min(init_growth_tracker_, interval - 1);
  if (growth_tracker_.defined()) growth_tracker_.clamp_max_(interval - 1);
}

std::optional<GradScalerState> GradScaler::state_dict() const {
  if (!options_.enabled) return std::nullopt;
  return GradScalerState{get_scale(), options_.growth_factor, options_.backoff_factor,
                         options_.growth_interval, get_growth_tracker()};
}

void GradScaler::load_state_dict(const GradScalerState& state) {
  if (!options_.enabled) return;
  check_scale(state.scale);
  check_growth_factor(state.growth_factor);
  check_backoff_factor(state.backoff_factor);
  check_growth_interval(state.growth_interval);
  MEZZO_CHECK(state.growth_tracker >= 0, "GradScaler", "_growth_tracker must be >= 0, but is {}",
              state.growth_tracker);
  options_.init_scale = state.scale;
  options_.growth_factor = state.growth_factor;
  options_.backoff_factor = state.backoff_factor;
  options_.growth_interval = state.growth_interval;
  init_growth_tracker_ = state.growth_tracker;
  if (scale_.defined()) scale_.fill_(state.scale);
  if (growth_tracker_.defined()) growth_tracker_.fill_(state.growth_tracker);
}

void GradScaler::init_scale_tensors() {
  scale_ = at::full({}, options_.init_scale, fp32_on(device_));
  growth_tracker_ = at::full({}, init_growth_tracker_, fp32_on(device_).dtype(at::kInt));
}

void GradScaler::check_scaled(const char* method) const {
  MEZZO_CHECK(scale_.defined(), fmt::format("GradScaler.{}", method),
              "called before scale(). Hint: scaler.scale(loss).backward() comes first");
}

// One kernel call per device and dtype; returns one found_inf a device that has gradients, 1.0 or
// 0.0.
std::vector<at::Tensor> GradScaler::unscale_grads(torch::optim::Optimizer& optimizer,
                                                  const at::Tensor& inv_scale,
                                                  bool allow_fp16) const {
  at::NoGradGuard no_grad;  // with create_graph the gradients themselves require grad
  std::map<std::pair<std::string, at::ScalarType>, std::vector<at::Tensor>> grads_by_kind;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      at::Tensor& grad = parameter.mutable_grad();
      if (!grad.defined()) continue;
      MEZZO_CHECK(allow_fp16 || grad.scalar_type() != at::kHalf, "GradScaler.unscale_",
                  "a gradient of shape {} is fp16, and so is its parameter: unscaling it can "
                  "underflow. Hint: keep the "
                  "parameters in fp32 and use Autocast, or set allow_fp16_grads",
                  fmt::join(grad.sizes(), " x "));
      grads_by_kind[{grad.device().str(), grad.scalar_type()}].push_back(values_to_unscale(grad));
    }
  }
  std::map<std::string, at::Tensor> found_inf_by_device;
  for (auto& [kind, grads] : grads_by_kind) {
    const at::Device device = grads.front().device();
    at::Tensor& found_inf = found_inf_by_device[kind.first];
    if (!found_inf.defined()) found_inf = at::zeros({}, fp32_on(device));
    at::_amp_foreach_non_finite_check_and_unscale_(grads, found_inf,
                                                   inv_scale.to(device, /*non_blocking=*/true));
  }
  std::vector<at::Tensor> found_inf_per_device;
  for (auto& [device, found_inf] : found_inf_by_device) found_inf_per_device.push_back(found_inf);
  return found_inf_per_device;
}

// The largest, not the sum: a fused optimizer skips on exactly 1, and a sum over two devices would
// be 2.
at::Tensor GradScaler::combined_found_inf(const PerOptimizer& state) const {
  at::Tensor combined = at::zeros({}, fp32_on(device_));
  for (const at::Tensor& found_inf : state.found_inf_per_device) {
    combined = at::maximum(combined, found_inf.to(device_, /*non_blocking=*/true));
  }
  return combined;
}

}  // namespace mezzo
