#include "mezzo/amp/grad_scaler.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include "mezzo/amp/overflow_report.h"
#include "mezzo/amp/unscale.h"
#include "mezzo/base/check.h"
#include "mezzo/base/scaled_step.h"
#include "mezzo/base/to_device.h"

namespace mezzo {
namespace {

at::TensorOptions fp32_on(at::Device device) {
  return at::TensorOptions().dtype(at::kFloat).device(device);
}

// The larger of two tensors of which either may be undefined.
at::Tensor larger(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  return at::maximum(a, b);
}

std::vector<GradientFacts> facts_of(const torch::optim::Optimizer& optimizer,
                                    const std::vector<UnscaledGradient>& gradients,
                                    const std::vector<NamedParameter>& names) {
  std::unordered_map<const c10::TensorImpl*, const UnscaledGradient*> found;
  for (const UnscaledGradient& gradient : gradients)
    found[gradient.parameter.unsafeGetTensorImpl()] = &gradient;
  std::vector<GradientFacts> facts;
  for (const auto& [name, parameter] : named_parameters(optimizer, names)) {
    const auto here = found.find(parameter.unsafeGetTensorImpl());
    if (here == found.end()) continue;
    if (here->second->facts.has_value()) {
      facts.push_back({name, *here->second->facts});
    } else if (parameter.grad().defined()) {
      facts.push_back({name, read_gradient(parameter.grad())});
    }
  }
  return facts;
}

}  // namespace

GradScaler::GradScaler(at::Device device, GradScalerOptions options)
    : device_(device), options_(std::move(options)) {
  validate(options_);
  MEZZO_CHECK(!options_.enabled || !device_.is_cuda() || at::globalContext().hasCUDA(),
              "GradScaler",
              "the device is {}, but no GPU can be used here. Hint: .enabled = "
              "torch::cuda::is_available(), or give a CPU",
              device_.str());
}

at::Tensor GradScaler::scale(const at::Tensor& outputs) {
  if (!options_.enabled) return outputs;
  if (!tensors_.scale.defined()) {
    device_ = scale_device(device_, outputs.device());
    init_tensors();
  }
  const bool is_16_bit = at::isReducedFloatingType(outputs.scalar_type());
  return (is_16_bit ? outputs.to(at::kFloat) : outputs) *
         to_device(tensors_.scale, outputs.device());
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
  const at::Tensor inv_scale = tensors_.scale.to(at::kDouble).reciprocal().to(at::kFloat);
  check_gradients(optimizer, inv_scale, options_.allow_fp16_grads, state);
  state.stage = Stage::kUnscaled;
}

StepOutcome GradScaler::step(torch::optim::Optimizer& optimizer,
                             torch::optim::Optimizer::LossClosure closure) {
  if (!options_.enabled) {
    optimizer.step(std::move(closure));
    return StepOutcome(true);
  }
  MEZZO_CHECK(closure == nullptr, "GradScaler.step",
              "a closure is not supported: its backward pass would go unscaled. Hint: call "
              "scale(loss).backward() before step(optimizer)");
  return step(std::vector<torch::optim::Optimizer*>{&optimizer});
}

StepOutcome GradScaler::step(const std::vector<torch::optim::Optimizer*>& optimizers) {
  if (!options_.enabled) {
    for (torch::optim::Optimizer* optimizer : optimizers) optimizer->step();
    return StepOutcome(true);
  }
  check_scaled("step");
  MEZZO_CHECK(std::set(optimizers.begin(), optimizers.end()).size() == optimizers.size(),
              "GradScaler.step", "the optimizers must differ, but one is given twice");
  bool is_host_needed = false;
  at::Tensor found_inf;
  for (torch::optim::Optimizer* optimizer : optimizers) {
    const bool is_scaled_step = dynamic_cast<ScaledStep*>(optimizer) != nullptr;
    found_inf = larger(found_inf, checked(*optimizer, is_scaled_step).found_inf);
    is_host_needed = is_host_needed || !is_scaled_step;
  }
  if (!found_inf.defined()) found_inf = at::zeros({}, fp32_on(device_));
  const bool is_skipped = is_host_needed && found_inf.item<float>() != 0.0f;
  for (torch::optim::Optimizer* optimizer : optimizers) {
    PerOptimizer& state = per_optimizer_.at(optimizer);
    if (auto* scaled = dynamic_cast<ScaledStep*>(optimizer)) {
      const bool is_unscaled = state.stage == Stage::kUnscaled;
      scaled->scaled_step(is_unscaled ? std::nullopt : std::optional(tensors_.scale), found_inf);
    } else if (!is_skipped) {
      optimizer->step();
    }
    state.stage = Stage::kStepped;
  }
  return is_host_needed ? StepOutcome(!is_skipped) : StepOutcome(found_inf);
}

// An optimizer about to step, its gradients checked. Those of a ScaledStep stay scaled unless
// unscale_ was called: its own pass over them divides.
GradScaler::PerOptimizer& GradScaler::checked(torch::optim::Optimizer& optimizer,
                                              bool is_scaled_step) {
  PerOptimizer& state = per_optimizer_[&optimizer];
  MEZZO_CHECK(
      state.stage != Stage::kStepped, "GradScaler.step",
      "called twice for this optimizer since the last update(); call update() once per step");
  if (is_scaled_step) {
    if (state.stage == Stage::kReady) {
      // An inverse of one checks and changes nothing.
      const at::Tensor one = at::full({}, 1.0, fp32_on(device_));
      check_gradients(optimizer, one, /*allow_fp16=*/true, state);
    }
    return state;
  }
  if (state.stage == Stage::kReady) unscale_(optimizer);
  MEZZO_CHECK(
      state.found_inf.defined(), "GradScaler.step",
      "no parameter of this optimizer has a gradient. Hint: call scale(loss).backward() first");
  return state;
}

void GradScaler::check_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                                 bool allow_fp16, PerOptimizer& state) const {
  Unscaled unscaled = unscale_gradients(optimizer, inv_scale, allow_fp16);
  state.gradients = std::move(unscaled.gradients);
  state.found_inf = std::move(unscaled.found_inf);
  if (options_.reduce_found_inf) {
    // A rank without gradients takes part: the others wait for it.
    if (!state.found_inf.defined()) state.found_inf = at::zeros({}, fp32_on(device_));
    options_.reduce_found_inf(state.found_inf);
    // To {0, 1}, whatever the reduction made: fused optimizers skip on 1 alone.
    state.found_inf.ne_(0);
  }
}

at::Tensor GradScaler::found_inf_of_all() const {
  at::Tensor found_inf;
  for (const auto& [optimizer, state] : per_optimizer_) {
    found_inf = larger(found_inf, state.found_inf);
  }
  return found_inf;
}

void GradScaler::update(std::optional<double> new_scale) {
  if (!options_.enabled) return;
  check_scaled("update");
  const at::Tensor found_inf = found_inf_of_all();
  if (new_scale.has_value()) {
    check_scale(*new_scale);
    tensors_.scale.fill_(clamped(*new_scale));
  } else {
    MEZZO_CHECK(
        found_inf.defined(), "GradScaler.update",
        "no gradient was checked since the last update(). Hint: call step() or unscale_() first");
    if (options_.is_dynamic) {
      if (options_.error_at_min_scale) {
        overflowed_at_floor_.logical_or_(overflows_at_floor(tensors_, found_inf, options_));
      }
      update_scale_(tensors_, found_inf, options_);
    }
  }
  finish_update(found_inf);
}

void GradScaler::update(const at::Tensor& new_scale) {
  if (!options_.enabled) return;
  check_scaled("update");
  MEZZO_CHECK(new_scale.defined() && new_scale.numel() == 1 && !new_scale.requires_grad() &&
                  new_scale.device().type() == device_.type(),
              "GradScaler.update",
              "new_scale must be one element without gradient on a {} device, but is {}",
              c10::DeviceTypeName(device_.type(), /*lower_case=*/true),
              new_scale.defined() ? new_scale.toString() : "undefined");
  const at::Tensor found_inf = found_inf_of_all();
  tensors_.scale.copy_(new_scale.squeeze())
      .nan_to_num_(options_.min_scale)
      .clamp_(options_.min_scale, options_.max_scale);
  finish_update(found_inf);
}

void GradScaler::finish_update(const at::Tensor& found_inf) {
  if (found_inf.defined()) count_step_(counters_, found_inf);
  const Optimizers optimizers = std::exchange(per_optimizer_, {});
  // Only where the flag lies at hand: another device would have to be waited for.
  if (device_.is_cpu() && *overflowed_at_floor_.const_data_ptr<bool>()) fail_at_floor(optimizers);
}

void GradScaler::fail_at_floor(const Optimizers& optimizers) const {
  overflowed_at_floor_.zero_();
  std::vector<GradientFacts> gradients;
  if (optimizers.empty()) gradients = read_gradients(names_);
  for (const auto& [optimizer, state] : optimizers) {
    for (auto& facts : facts_of(*optimizer, state.gradients, names_))
      gradients.push_back(std::move(facts));
  }
  const std::string worst = describe_overflow(gradients);
  MEZZO_CHECK(
      false, "GradScaler.update",
      "the gradients overflow although the scale is at its minimum of {}, so there is nothing "
      "left to lower. Most non-finite gradients: {}. Hint: the run has diverged, or a layer "
      "needs fp32; error_at_min_scale = false skips such steps",
      options_.min_scale, worst.empty() ? "unknown, they are gone" : worst);
}

const GradScaler::PerOptimizer& GradScaler::known(const char* method,
                                                  const torch::optim::Optimizer& optimizer) const {
  // The map's keys are the optimizers that unscale_ and step were given, hence not const.
  const auto state = per_optimizer_.find(const_cast<torch::optim::Optimizer*>(&optimizer));
  MEZZO_CHECK(state != per_optimizer_.end(), fmt::format("GradScaler.{}", method),
              "nothing is known of this optimizer since the last update(); call it after "
              "unscale_() or step()");
  return state->second;
}

bool GradScaler::found_inf(const torch::optim::Optimizer& optimizer) const {
  if (!options_.enabled) return false;
  const PerOptimizer& state = known("found_inf", optimizer);
  return state.found_inf.defined() && read(state.found_inf).front() != 0.0;
}

at::Tensor GradScaler::found_inf_tensor(const torch::optim::Optimizer& optimizer) const {
  return options_.enabled ? known("found_inf_tensor", optimizer).found_inf : at::Tensor();
}

std::vector<GradientFacts> GradScaler::gradient_facts(
    const torch::optim::Optimizer& optimizer) const {
  if (!options_.enabled) return {};
  return facts_of(optimizer, known("gradient_facts", optimizer).gradients, names_);
}

std::optional<double> GradScaler::largest_gradient(const torch::optim::Optimizer& optimizer) const {
  if (!options_.enabled) return std::nullopt;
  double largest = 0.0;
  for (const UnscaledGradient& gradient : known("largest_gradient", optimizer).gradients) {
    if (!gradient.facts.has_value()) return std::nullopt;
    largest = std::max(largest, gradient.facts->largest);
  }
  return largest;
}

StepCounts GradScaler::counters() const {
  if (!counters_.defined()) return {};
  const std::vector<double> counts = read(counters_);
  return {static_cast<int64_t>(counts[0]), static_cast<int64_t>(counts[1]),
          static_cast<int64_t>(counts[2])};
}

void GradScaler::name_parameters(const torch::OrderedDict<std::string, at::Tensor>& named) {
  names_.clear();
  for (const auto& item : named) names_.emplace_back(item.key(), item.value());
}

double GradScaler::get_scale() const {
  if (!options_.enabled) return 1.0;
  return tensors_.scale.defined() ? read(tensors_.scale).front() : clamped(options_.init_scale);
}

int64_t GradScaler::get_growth_tracker() const {
  if (!options_.enabled) return 0;
  return tensors_.growth_tracker.defined()
             ? static_cast<int64_t>(read(tensors_.growth_tracker).front())
             : init_growth_tracker_;
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
  init_growth_tracker_ = clamped_tracker(init_growth_tracker_);
  if (tensors_.growth_tracker.defined()) {
    tensors_.growth_tracker.clamp_max_(clamped_tracker(std::numeric_limits<int64_t>::max()));
  }
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
  options_.init_scale = clamped(state.scale);
  options_.growth_factor = state.growth_factor;
  options_.backoff_factor = state.backoff_factor;
  options_.growth_interval = state.growth_interval;
  init_growth_tracker_ = clamped_tracker(state.growth_tracker);
  if (!tensors_.scale.defined()) return;
  tensors_.scale.fill_(options_.init_scale);
  tensors_.growth_tracker.fill_(init_growth_tracker_);
  tensors_.hysteresis_tracker.fill_(options_.hysteresis);
  overflowed_at_floor_.zero_();
}

void GradScaler::load_state_dict(const std::optional<GradScalerState>& state) {
  if (!options_.enabled) return;
  MEZZO_CHECK(
      state.has_value(), "GradScaler.load_state_dict",
      "the state is empty, as that of a disabled scaler is. Hint: begin with init_scale, or "
      "disable this one too");
  load_state_dict(*state);
}

void GradScaler::init_tensors() {
  const at::TensorOptions int32 = fp32_on(device_).dtype(at::kInt);
  tensors_ = {at::full({}, options_.init_scale, fp32_on(device_)),
              at::full({}, init_growth_tracker_, int32), at::full({}, options_.hysteresis, int32)};
  counters_ = make_step_counters(device_);
  overflowed_at_floor_ = at::zeros({}, fp32_on(device_).dtype(at::kBool));
}

void GradScaler::check_scaled(const char* method) const {
  MEZZO_CHECK(tensors_.scale.defined(), fmt::format("GradScaler.{}", method),
              "called before scale(). Hint: scaler.scale(loss).backward() comes first");
}

// The values, and with them the flag of an overflow at the floor: one copy from the device.
std::vector<double> GradScaler::read(const at::Tensor& values) const {
  const at::Tensor all =
      at::cat({values.to(at::kDouble).view({-1}), overflowed_at_floor_.to(at::kDouble).view({1})})
          .to(at::kCPU);
  const double* first = all.const_data_ptr<double>();
  if (first[values.numel()] != 0.0) fail_at_floor({});
  return {first, first + values.numel()};
}

double GradScaler::clamped(double scale) const {
  return std::clamp(scale, options_.min_scale, options_.max_scale);
}

// The update grows where tracker + 1 equals the interval: a tracker beyond it would never grow
// again. It is an int32.
int64_t GradScaler::clamped_tracker(int64_t tracker) const {
  return std::min(
      {tracker, options_.growth_interval - 1, int64_t{std::numeric_limits<int32_t>::max() - 1}});
}

}  // namespace mezzo
