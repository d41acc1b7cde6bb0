#include "mezzo/train/step_statistics.h"

#include <chrono>
#include <utility>

namespace mezzo::train {
namespace {

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters) gradients.push_back(parameter.grad());
  return gradients;
}

}  // namespace

StepStatistics::StepStatistics(TensorMemoryMeter& memory, models::GPT2& model,
                               const RunOptimizer& optimizer)
    : memory_(memory), model_(model), parameters_(model->parameters()), optimizer_(optimizer) {}

void StepStatistics::before_forward() {
  if (std::exchange(wants_health_, false)) health_.emplace(model_, optimizer_);
  memory_.begin_forward();
}

void StepStatistics::after_forward() { memory_.end_forward(); }

void StepStatistics::after_unscale() {
  if (health_.has_value()) health_->after_unscale();
  if (!std::exchange(wants_gradients_, false)) return;
  const auto begin = std::chrono::steady_clock::now();
  gradients_.emplace();
  gradients_->magnitudes = numerics::magnitudes_of(gradients_of(parameters_));
  const auto spent = std::chrono::steady_clock::now() - begin;
  gradients_->measuring_ms = std::chrono::duration<double, std::milli>(spent).count();
}

void StepStatistics::after_step() {
  if (health_.has_value()) health_->after_step();
  if (!parameters_.front().is_cpu() || memory_.peak_bytes() == peak_) return;
  peak_ = memory_.peak_bytes();
  peak_kinds_ =
      memory_.peak_by_kind(parameters_, gradients_of(parameters_), optimizer_.state_tensors());
}

std::optional<StepStatistics::Gradients> StepStatistics::take_gradients() {
  return std::exchange(gradients_, std::nullopt);
}

std::optional<StepStatistics::MeasuredHealth> StepStatistics::take_health() {
  if (!health_.has_value()) return std::nullopt;
  MeasuredHealth measured{health_->take(), health_->spent_ms()};
  health_.reset();
  return measured;
}

}  // namespace mezzo::train
