#include "mezzo/train/step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/optim/clip.h"
#include "mezzo/train/forward_backward.h"

namespace mezzo::train {

Step::Step(models::LanguageModel model, RunOptimizer& optimizer, GradScaler& scaler,
           const PrecisionMode& mode, StepOptions options, StepWatch* watch)
    : model_(model),
      optimizer_(optimizer),
      scaler_(scaler),
      mode_(mode),
      options_(options),
      watch_(watch),
      triage_(scaler.is_dynamic(), float_format(mode.compute()).max, scaler.get_growth_interval()),
      parameters_(model->parameters()) {
  scaler_.name_parameters(model->named_parameters());
  if (!options_.releases_gradients) return;
  MEZZO_CHECK_USAGE(optimizer_.compact() != nullptr, "gradient release",
                    "the precision must be one with split weights or 8-bit moments, but is {}",
                    mode_.name);
  release_.emplace(
      *optimizer_.compact(),
      optim::GradientUse{.clips = options_.clip > 0.0, .is_loss_scaled = scaler_.is_enabled()},
      [this](const at::Tensor& parameter) { on_released(parameter); });
}

StepResult Step::run(const std::vector<Batch>& batches, double lr) {
  if (release_.has_value())
    optim::check_gradient_release({.accumulate = static_cast<int64_t>(batches.size())});
  optimizer_.set_lr(lr);
  StepResult result = attempt(batches);
  int64_t retries = 0;
  while (result.is_skipped && retries < options_.max_retries) {
    result = attempt(batches);
    ++retries;
  }
  result.retries = retries;
  return result;
}

StepResult Step::attempt(const std::vector<Batch>& batches) {
  StepResult result;
  result.scale = scaler_.get_scale();
  if (watch_ != nullptr) watch_->before_attempt();
  if (on_failure_ != nullptr) begun_ = passing();
  if (release_.has_value())
    released_ = {0.0, std::vector<kernels::TensorStats>(parameters_.size())};
  const at::Tensor loss = forward_backward(
      model_, mode_, batches, [&](const at::Tensor& part) { scaler_.scale(part).backward(); },
      watch_);
  if (release_.has_value()) {
    result.grad_norm = end_released(result);
  } else if (scaler_.is_enabled()) {
    result.grad_norm = step_scaled(result);
  } else {
    result.grad_norm = step_unscaled(result, batches);
  }
  if (watch_ != nullptr) watch_->after_step();
  optimizer_.optimizer().zero_grad();
  result.loss = loss.item<double>();
  if (result.is_skipped) {
    result.next_scale = scaler_.get_scale();
    result.skip_cause = triage_.on_skip(result.scale, std::isfinite(result.loss));
    if (result.skip_cause == SkipCause::kUnexplained) hand_over(batches, result.scale);
  }
  return result;
}

void Step::explain(StepResult& result) {
  if (result.is_skipped) {
    result.skip_cause = triage_.on_skip(result.scale, std::isfinite(result.loss));
  } else {
    triage_.on_good_step(result.scale, std::nullopt);
  }
}

Step::Passing Step::passing() const {
  return {RandomState(parameters_.front().device()), model_->fp8_histories()};
}

// The step may go on afterwards: gradients, generators and FP8 histories are as they were.
void Step::hand_over(const std::vector<Batch>& batches, double scale) {
  if (on_failure_ == nullptr) return;
  std::vector<at::Tensor> grads;
  for (const at::Tensor& parameter : parameters_) {
    grads.push_back(parameter.grad());
    parameter.mutable_grad().reset();
  }
  const Passing now = passing(), begun = begun_.value_or(now);
  begun.random.restore();
  on_failure_({batches, scale, begun.random, begun.fp8});
  now.random.restore();
  model_->set_fp8_histories(now.fp8);
  for (size_t i = 0; i < grads.size(); ++i) parameters_[i].mutable_grad() = grads[i];
}

void Step::show_gradients() {
  if (watch_ == nullptr) return;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].grad().defined()) watch_->on_gradient(i, parameters_[i].grad());
  watch_->after_gradients();
}

double Step::step_unscaled(StepResult& result, const std::vector<Batch>& batches) {
  show_gradients();
  const double norm = optim::grad_norm(parameters_).item<double>();
  if (!std::isfinite(norm)) {
    result.gradients = read_gradients(model_->named_parameters().pairs());
    hand_over(batches, 1.0);
  }
  update(norm, 1.0);
  return norm;
}

void Step::update(double scale) {
  update(optim::grad_norm(parameters_).item<double>() / scale, scale);
}

// The optimizer divides the gradients as it goes.
void Step::update(double norm, double scale) {
  const at::TensorOptions options = parameters_.front().options().dtype(at::kFloat);
  std::optional<at::Tensor> divisor;
  if (options_.clip > 0.0 && norm > options_.clip) scale *= norm / options_.clip;
  if (scale != 1.0) divisor = at::full({}, scale, options);
  optimizer_.scaled_step().scaled_step(divisor, at::zeros({}, options));
}

double Step::step_scaled(StepResult& result) {
  torch::optim::Optimizer& optimizer = optimizer_.optimizer();
  scaler_.unscale_(optimizer);
  show_gradients();
  // Before clipping, which makes NaNs of all gradients where one is not finite.
  result.is_skipped = scaler_.found_inf(optimizer);
  if (result.is_skipped) {
    result.gradients = scaler_.gradient_facts(optimizer);
  } else {
    triage_.on_good_step(result.scale, scaler_.largest_gradient(optimizer));
  }
  const double max_norm =
      options_.clip > 0.0 ? options_.clip : std::numeric_limits<double>::infinity();
  const at::Tensor norm = optim::clip_grad_norm_(parameters_, max_norm);
  scaler_.step(optimizer);
  scaler_.update();
  return norm.item<double>();
}

// In the backward pass, before the parameter steps.
void Step::on_released(const at::Tensor& parameter) {
  const auto same = [&](const at::Tensor& own) { return own.is_same(parameter); };
  const auto place = static_cast<size_t>(
      std::find_if(parameters_.begin(), parameters_.end(), same) - parameters_.begin());
  if (watch_ != nullptr) watch_->on_gradient(place, parameter.grad());
  const double norm = optim::grad_norm({parameter}).item<double>();
  released_.sum_squares += norm * norm;
  if (!std::isfinite(norm)) released_.facts[place] = read_gradient(parameter.grad());
}

double Step::end_released(StepResult& result) {
  if (watch_ != nullptr) watch_->after_gradients();
  const double norm = std::sqrt(released_.sum_squares);
  if (std::isfinite(norm)) return norm;
  size_t place = 0;
  for (const auto& item : model_->named_parameters())
    result.gradients.push_back({item.key(), released_.facts[place++]});
  return norm;
}

}  // namespace mezzo::train
