#pragma once

#include <optional>

#include "mezzo/base/bytes_by_kind.h"
#include "mezzo/base/memory.h"
#include "mezzo/numerics/magnitudes.h"
#include "mezzo/train/step_health.h"
#include "mezzo/train/step_watch.h"

namespace mezzo::train {

/// What a run's steps show from inside: what the peak of tensor memory is made of, and, for a step
/// that is asked for, how large its gradients are. The meter and the optimizer outlive it.
class StepStatistics : public StepWatch {
 public:
  StepStatistics(TensorMemoryMeter& memory, models::LanguageModel model,
                 const RunOptimizer& optimizer);

  void before_attempt() override;
  void before_forward() override;
  void after_forward() override;
  void on_gradient(size_t place, const at::Tensor& grad) override;
  void after_gradients() override;
  void after_step() override;

  /// The next step's gradients are measured, unscaled and before they are clipped.
  void want_gradients() { wants_gradients_ = true; }
  /// The next step's Health is taken.
  void want_health() { wants_health_ = true; }

  struct Gradients {
    numerics::Magnitudes magnitudes;
    double measuring_ms = 0;  // of all attempts; not part of the step's own time
  };
  /// Those of the step since the last call, of its last attempt; none if none were wanted.
  std::optional<Gradients> take_gradients();

  struct MeasuredHealth {
    Health health;
    double measuring_ms = 0;
  };
  /// The same of its health.
  std::optional<MeasuredHealth> take_health();

  /// Of the meter's peak, whether a step made it or what came between steps (an evaluation, a
  /// checkpoint); none on other devices than a CPU.
  std::optional<BytesByKind> peak_kinds() const;

 private:
  BytesByKind kinds_at_peak() const;

  TensorMemoryMeter& memory_;
  models::LanguageModel model_;
  std::vector<at::Tensor> parameters_;
  const RunOptimizer& optimizer_;
  bool wants_gradients_ = false;
  std::optional<Gradients> gradients_;
  bool wants_health_ = false;
  std::optional<StepHealth> health_;
  double health_ms_ = 0;  // of attempts before
  int64_t peak_ = 0;      // when the last step ended, and what it was made of
  BytesByKind kinds_at_step_;
};

}  // namespace mezzo::train
