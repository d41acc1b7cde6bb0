#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/train/device_step.h"
#include "mezzo/train/step.h"

namespace mezzo::train {

struct StepBenchOptions {
  std::string model = "nano";
  std::string precision = "amp-bf16";
  std::string fp8_scaling = "current";
  std::string recompute = "elementwise";
  std::string device = "cpu";
  int64_t accumulate = 1;           // batches of a step
  bool releases_gradients = false;  // and does not clip, which needs them all
  int64_t steps = 10;               // timed, after the warm-up
  std::optional<int64_t> batch;     // sequences; absent: the model's of bench/README.md
  std::optional<int64_t> length;    // tokens of one; likewise
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
  std::string note;  // BenchStep::note()
};

/// A training step (forward, backward, clip, optimizer) on random tokens, with the shapes of
/// bench/README.md; a model without one takes its whole context, a sequence at a time.
class BenchStep {
 public:
  /// Throws UsageError for an unknown model or precision, a batch < 1, gradients released in a mode
  /// that cannot, FP8 where it cannot be. `watch` outlives it.
  explicit BenchStep(const StepBenchOptions& options, StepWatch* watch = nullptr);
  void run();
  /// Runs `steps` and says how long one took, in ms: each of them on a CPU; on a GPU, which is
  /// waited for at the end alone, their mean.
  std::vector<double> time(int64_t steps);
  /// What is to be known of the figures: that FP8 is emulated, why a GPU's steps are not one graph;
  /// or empty.
  std::string note() const;
  int64_t batch() const { return batch_; }
  int64_t length() const { return length_; }

 private:
  void make_step(const StepOptions& options, StepWatch* watch);

  int64_t batch_ = 0, length_ = 0;
  const PrecisionMode& mode_;
  const at::Device device_;
  models::LanguageModel model_;
  RunOptimizer optimizer_;
  GradScaler scaler_;
  std::unique_ptr<Step> step_;  // one of the two is there
  // On a GPU that the build has kernels for. Shared, as other builds know nothing of its end.
  std::shared_ptr<DeviceStep> device_step_;
  std::vector<Batch> batches_;
};

/// Times such steps; three of warm-up (as many as are timed, if fewer) do not count. Throws as
/// BenchStep does, UsageError for steps < 1, BudgetExceeded for what does not fit.
StepBenchResult bench_step(const StepBenchOptions& options);

}  // namespace mezzo::train
