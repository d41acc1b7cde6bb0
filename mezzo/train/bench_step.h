#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace mezzo::train {

struct StepBenchOptions {
  std::string model = "nano";
  std::string precision = "amp-bf16";
  std::string recompute = "elementwise";
  int64_t steps = 10;             // timed, after the warm-up
  std::optional<int64_t> batch;   // sequences; absent: the model's of bench/README.md
  std::optional<int64_t> budget;  // bytes of tensors that the step may need; absent: no limit
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

/// Times whole training steps (forward, backward, clip, optimizer) on random tokens, with the
/// shapes of bench/README.md; three steps of warm-up (as many as are timed, if fewer) do not count.
/// A model without a bench shape takes its whole context, a sequence at a time. Throws UsageError
/// for an unknown model or precision, steps or a batch < 1; BudgetExceeded for what does not fit.
StepBenchResult bench_step(const StepBenchOptions& options);

}  // namespace mezzo::train
