#include "mezzo/train/step_health.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/ones_like.h>

#include "mezzo/base/stopwatch.h"
#include "mezzo/kernels/adamw/split_weights.h"

namespace mezzo::train {
namespace {

/// Adds the time that passes while it lives.
class Spent {
 public:
  explicit Spent(double& total) : total_(total) {}
  ~Spent() { total_ += watch_.ms(); }
  Spent(const Spent&) = delete;
  Spent& operator=(const Spent&) = delete;

 private:
  double& total_;
  Stopwatch watch_;
};

at::Tensor sample_of(const at::Tensor& tensor) {
  const int64_t N = tensor.numel();
  const int64_t step = (N + StepHealth::kSampled - 1) / StepHealth::kSampled;
  return tensor.detach().reshape(-1).slice(0, 0, N, std::max<int64_t>(step, 1));
}

// As they are stepped. Of split weights it is the samples that are joined: whole, they would be a
// copy of the model in fp32.
std::vector<at::Tensor> samples_of_weights(models::LanguageModel model,
                                           const RunOptimizer& optimizer) {
  const auto remainders = optimizer.remainders();
  std::vector<at::Tensor> samples;
  for (const auto& item : model->named_parameters()) {
    const at::Tensor sample = sample_of(item.value());
    const auto low = remainders.find(item.key());
    const at::Tensor whole =
        low == remainders.end() ? sample : kernels::join(sample, sample_of(low->second));
    samples.push_back(whole.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true));
  }
  return samples;
}

double rms(const at::Tensor& numbers) { return numbers.square().mean().sqrt().item<double>(); }

void compare(ParameterHealth& health, const at::Tensor& before, const at::Tensor& after,
             const at::Tensor& maybe_asked) {
  const double size = rms(before);
  if (size > 0.0) health.update = rms(after - before) / size;
  const at::Tensor is_asked =
      maybe_asked.defined() ? maybe_asked : at::ones_like(before, at::kBool);
  const int64_t asked = is_asked.sum().item<int64_t>();
  if (asked == 0) return;
  const int64_t lost = at::logical_and(is_asked, after.eq(before)).sum().item<int64_t>();
  health.lost_update = static_cast<double>(lost) / static_cast<double>(asked);
}

}  // namespace

StepHealth::StepHealth(models::LanguageModel model, const RunOptimizer& optimizer)
    : model_(model), optimizer_(optimizer) {
  const Spent spent(spent_ms_);
  const at::NoGradGuard no_grad;
  for (const auto& item : model_->named_parameters()) {
    ParameterHealth parameter;
    parameter.name = item.key();
    parameter.weights.add(item.value());
    health_.parameters.push_back(std::move(parameter));
  }
  before_ = samples_of_weights(model_, optimizer_);
  asked_.resize(before_.size());
  probe_.emplace();
}

void StepHealth::on_gradient(size_t place, const at::Tensor& grad) {
  const Spent spent(spent_ms_);
  const at::NoGradGuard no_grad;
  health_.parameters[place].gradients.add(grad);
  asked_[place] = sample_of(grad).ne(0.0);
}

void StepHealth::after_gradients() {
  spent_ms_ += probe_->spent_ms();
  const Spent spent(spent_ms_);
  const at::NoGradGuard no_grad;
  health_.modules = probe_->take();
  probe_.reset();
}

void StepHealth::after_step() {
  const Spent spent(spent_ms_);
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> after = samples_of_weights(model_, optimizer_);
  for (size_t i = 0; i < after.size(); ++i)
    compare(health_.parameters[i], before_[i], after[i], asked_[i]);
}

}  // namespace mezzo::train
