#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mezzo/report/run_files.h"

namespace mezzo::report {

/// One run of a comparison: a mode and a seed.
struct ComparedRun {
  std::string mode;
  int64_t seed = 0;
  std::string failure;  // why the run could not be finished; empty: it could, or is not over
  RunFiles files;
};

/// What the runs of a comparison have in common.
struct ComparisonPlan {
  std::vector<std::string> modes;
  std::string baseline;  // the mode that the others are held against
  std::vector<int64_t> seeds;
  int64_t steps = 0;
  int64_t block = 0;  // steps that a run does before it is another's turn
};

/// A quantity measured many times.
struct Spread {
  double median = 0;
  double low = 0, high = 0;  // the quartiles
};

/// Nothing where there are no values.
std::optional<Spread> spread_of(const std::vector<double>& values);

/// What a mode's runs came to, over all seeds.
struct ModeResult {
  std::string mode;
  std::optional<Spread> step_ms;
  std::optional<Spread> speedup;  // the baseline's time over this mode's, block by block

  std::optional<int64_t> peak_tensor_bytes, peak_rss_bytes;  // the largest of the seeds
  std::optional<BytesByKind> peak_kinds;
  std::optional<double> memory_saved;  // share of the baseline's peak_tensor_bytes

  std::optional<double> val_accuracy, val_loss;  // means over the seeds
  std::optional<double> relative_accuracy;       // its mean over the baseline's, of common seeds
  std::optional<bool> within_noise;              // of the baseline over its seeds
  bool is_as_accurate = false;  // as the baseline, or more: what may be recommended

  int64_t skipped_steps = 0;
  int64_t nonfinite_steps = 0;                        // whose loss was NaN or Inf
  std::optional<double> smallest_scale, final_scale;  // the smallest of all seeds
  // Share of gradient values that are 0 in 16 bits, at the last evaluations of all seeds.
  std::optional<double> zero_gradients;

  std::vector<std::pair<int64_t, int64_t>> diverged;  // seed, step
  std::vector<std::string> failures;
};

/// The table of a comparison, as far as its runs have come, and what it says.
struct Comparison {
  std::vector<ModeResult> modes;
  // The baseline over its seeds: median, least, most.
  std::optional<Spread> noise_accuracy, noise_loss;
  std::string verdict;
  std::string recommended;  // a mode; empty: not known yet
  std::string reason;
};

/// Speed. The first step of each block (the caches are another mode's) and the first three of a run
/// are left out; the median of the rest is the block's time. A mode's speed-up is the median over
/// all blocks of the baseline's time over its own in the same round, so that a machine whose speed
/// drifts harms both alike.
///
/// A mode is within noise if the mean differences to the baseline of the same seed, in held-out
/// accuracy and in held-out loss, are not larger than the ranges of the baseline's own over its
/// seeds; with one seed nothing is said. It is as accurate if neither is worse than the baseline's
/// by more than that range, or by more than a hundredth; better it may be by any amount.
Comparison compare_runs(const ComparisonPlan& plan, const std::vector<ComparedRun>& runs);

/// The table as text, a line a mode, for a terminal.
std::string comparison_text(const Comparison& comparison);

}  // namespace mezzo::report
