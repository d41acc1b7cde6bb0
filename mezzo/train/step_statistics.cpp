#include "mezzo/train/step_statistics.h"

#include <utility>

#include "mezzo/base/stopwatch.h"

namespace mezzo::train {
namespace {

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters) gradients.push_back(parameter.grad());
  return gradients;
}

}  // namespace

StepStatistics::StepStatistics(TensorMemoryMeter& memory, models::LanguageModel model,
                               const RunOptimizer& optimizer)
    : memory_(memory), model_(model), parameters_(model->parameters()), optimizer_(optimizer) {}

void StepStatistics::before_attempt() {
  if (gradients_.has_value()) gradients_->magnitudes = {};
  if (!wants_health_) return;
  if (health_.has_value()) health_ms_ += health_->spent_ms();
  health_.emplace(model_, optimizer_);
}

void StepStatistics::before_forward() { memory_.begin_forward(); }

void StepStatistics::after_forward() { memory_.end_forward(); }

void StepStatistics::on_gradient(size_t place, const at::Tensor& grad) {
  if (health_.has_value()) health_->on_gradient(place, grad);
  if (!wants_gradients_) return;
  const Stopwatch spent;
  if (!gradients_.has_value()) gradients_.emplace();
  gradients_->magnitudes += numerics::magnitudes_of(grad);
  gradients_->measuring_ms += spent.ms();
}

void StepStatistics::after_gradients() {
  if (health_.has_value()) health_->after_gradients();
}

void StepStatistics::after_step() {
  if (health_.has_value()) health_->after_step();
  if (!parameters_.front().is_cpu() || memory_.peak_bytes() == peak_) return;
  peak_ = memory_.peak_bytes();
  kinds_at_step_ = kinds_at_peak();
}

// Of a step's peak once the step is over, the gradients would be missing: they are gone. Of a peak
// between steps none was there.
std::optional<BytesByKind> StepStatistics::peak_kinds() const {
  if (!parameters_.front().is_cpu()) return std::nullopt;
  return memory_.peak_bytes() == peak_ ? kinds_at_step_ : kinds_at_peak();
}

BytesByKind StepStatistics::kinds_at_peak() const {
  return memory_.peak_by_kind(parameters_, gradients_of(parameters_), optimizer_.state_tensors());
}

std::optional<StepStatistics::Gradients> StepStatistics::take_gradients() {
  wants_gradients_ = false;
  return std::exchange(gradients_, std::nullopt);
}

std::optional<StepStatistics::MeasuredHealth> StepStatistics::take_health() {
  wants_health_ = false;
  if (!health_.has_value()) return std::nullopt;
  MeasuredHealth measured{health_->take(), health_->spent_ms() + std::exchange(health_ms_, 0.0)};
  health_.reset();
  return measured;
}

}  // namespace mezzo::train
