#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/amp/precision.h"
#include "mezzo/amp/skip_triage.h"
#include "mezzo/models/language_model.h"
#include "mezzo/optim/gradient_release.h"
#include "mezzo/train/batch.h"
#include "mezzo/train/failed_step.h"
#include "mezzo/train/run_optimizer.h"
#include "mezzo/train/step_watch.h"

namespace mezzo::train {

struct StepOptions {
  double clip = 1.0;  // largest global gradient norm; 0: gradients are not clipped, the norm is
                      // still measured
  int64_t max_retries = 0;  // how often an overflowed step runs its batch again at the lowered
                            // scale before it is skipped
  bool releases_gradients = false;  // optim::GradientRelease: needs clip 0, a step of one batch, a
                                    // loss that is not scaled, and a compact optimizer
};

struct StepResult {
  double loss = 0.0;        // mean over the step's batches, unscaled
  double grad_norm = 0.0;   // before clipping, unscaled
  double scale = 1.0;       // that this step's gradients were computed with
  double next_scale = 1.0;  // that the next step has; only where this one is skipped
  bool is_skipped = false;
  SkipCause skip_cause = SkipCause::kUnexplained;  // where it is skipped
  // What the gradients held, in the order of the forward pass; only where not all are finite.
  std::vector<GradientFacts> gradients = {};
  int64_t retries = 0;
};

/// The step of mixed-precision training: forward under Autocast, scaled backward, unscale, clip,
/// step or skip, update. Optimizer, scaler and watch outlive it.
class Step {
 public:
  /// Throws UsageError if gradients shall be released where that cannot be.
  Step(models::LanguageModel model, RunOptimizer& optimizer, GradScaler& scaler,
       const PrecisionMode& mode, StepOptions options, StepWatch* watch = nullptr);

  /// One optimizer step at the learning rate `lr` on the mean loss over `batches` (more than one:
  /// accumulation; UsageError where gradients are released). A skipped step leaves weights and
  /// optimizer state as they were, bit for bit; the scale is updated either way. Waits for the
  /// device to learn of an overflow before it clips, and at the end for the loss and the norm.
  StepResult run(const std::vector<Batch>& batches, double lr);

  /// Called with a step whose loss or gradients are not finite and whose failure the search for the
  /// scale does not explain, while the weights are those that it was computed with; so never where
  /// gradients are released. Null: nobody.
  void on_failure(std::function<void(const FailedStep&)> handler) {
    on_failure_ = std::move(handler);
  }
  /// Hands the handler that step, whatever comes of it.
  void examine(const std::vector<Batch>& batches) {
    begun_.reset();
    hand_over(batches, scaler_.get_scale());
  }

  /// The second half of a step that is taken: clips the gradients of a loss that was multiplied by
  /// `scale`, and steps the optimizer.
  void update(double scale);

  /// Says of a step that was taken elsewhere, on this scaler's scale, why it was skipped: the
  /// search for the scale is one, whoever takes the steps.
  void explain(StepResult& result);

  /// The scaler's scale is one that has worked, in the run that goes on here.
  void resume() { triage_.on_good_step(scaler_.get_scale(), std::nullopt); }

 private:
  StepResult attempt(const std::vector<Batch>& batches);
  double step_unscaled(StepResult& result, const std::vector<Batch>& batches);
  void update(double norm, double scale);
  void hand_over(const std::vector<Batch>& batches, double scale);
  double step_scaled(StepResult& result);
  double end_released(StepResult& result);
  void on_released(const at::Tensor& parameter);
  void show_gradients();

  models::LanguageModel model_;
  RunOptimizer& optimizer_;
  GradScaler& scaler_;
  const PrecisionMode& mode_;
  StepOptions options_;
  StepWatch* watch_;  // null: nobody looks
  SkipTriage triage_;
  std::function<void(const FailedStep&)> on_failure_;
  /// What a step changes that is no weight, moment or gradient: to be as it was, for a step that is
  /// run again.
  struct Passing {
    RandomState random;
    TensorMap fp8;
  };
  Passing passing() const;
  std::optional<Passing> begun_;  // when the attempt began, where there is a handler
  std::vector<at::Tensor> parameters_;

  /// Of the step in hand, where gradients are released.
  struct Released {
    double sum_squares = 0.0;
    std::vector<kernels::TensorStats> facts;  // by parameter; of a finite gradient none are taken
  };
  Released released_;
  std::optional<optim::GradientRelease> release_;
};

}  // namespace mezzo::train
