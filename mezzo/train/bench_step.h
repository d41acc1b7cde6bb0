#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/train/step.h"

namespace mezzo::train {

struct StepBenchOptions {
  std::string model = "nano";
  std::string precision = "amp-bf16";
  std::string recompute = "elementwise";
  bool releases_gradients = false;  // and does not clip, which needs them all
  int64_t steps = 10;               // timed, after the warm-up
  std::optional<int64_t> batch;     // sequences; absent: the model's of bench/README.md
  std::optional<int64_t> budget;    // bytes of tensors that the step may need; absent: no limit
};

struct StepBenchResult {
  int64_t batch = 0;
  int64_t length = 0;
  double min_ms = 0.0;
  double median_ms = 0.0;
  double tokens_per_s = 0.0;  // at the median
  int64_t peak_tensor_bytes = 0;
  int64_t peak_rss_bytes = 0;
};

/// A training step (forward, backward, clip, optimizer) on random tokens, with the shapes of
/// bench/README.md; a model without one takes its whole context, a sequence at a time. On the CPU.
class BenchStep {
 public:
  /// Throws UsageError for an unknown model or precision, a batch < 1, gradients released in a mode
  /// that cannot. `watch` outlives it.
  explicit BenchStep(const StepBenchOptions& options, StepWatch* watch = nullptr);
  void run();
  int64_t batch() const { return batch_; }
  int64_t length() const { return length_; }

 private:
  int64_t batch_ = 0, length_ = 0;
  const PrecisionMode& mode_;
  models::GPT2 model_;
  RunOptimizer optimizer_;
  GradScaler scaler_;
  Step step_;
  std::vector<Batch> batches_;
};

/// Times such steps; three of warm-up (as many as are timed, if fewer) do not count. Throws as
/// BenchStep does, UsageError for steps < 1, BudgetExceeded for what does not fit.
StepBenchResult bench_step(const StepBenchOptions& options);

}  // namespace mezzo::train
