#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "mezzo/models/language_model.h"
#include "mezzo/numerics/range_probe.h"
#include "mezzo/train/health.h"
#include "mezzo/train/run_optimizer.h"

namespace mezzo::train {

/// Takes the Health of one step, of whose parts it is told in their order. Holds a copy of a sample
/// of the weights while it lives. The optimizer outlives it.
class StepHealth {
 public:
  static constexpr int64_t kSampled = 65536;

  /// Before the first forward pass.
  StepHealth(models::LanguageModel model, const RunOptimizer& optimizer);
  /// The gradient of model->parameters()[place], unscaled.
  void on_gradient(size_t place, const at::Tensor& grad);
  /// Forward and backward are done, and all gradients seen.
  void after_gradients();
  /// The optimizer has stepped, or not.
  void after_step();

  Health take() { return std::move(health_); }
  /// What it cost the step.
  double spent_ms() const { return spent_ms_; }

 private:
  models::LanguageModel model_;
  const RunOptimizer& optimizer_;
  std::optional<numerics::RangeProbe> probe_;
  std::vector<at::Tensor> before_;  // a sample of each parameter's weights
  std::vector<at::Tensor> asked_;   // which of them have a gradient; undefined: all
  Health health_;
  double spent_ms_ = 0.0;
};

}  // namespace mezzo::train
