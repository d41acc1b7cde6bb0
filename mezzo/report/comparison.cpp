#include "mezzo/report/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "mezzo/base/median.h"

namespace mezzo::report {
namespace {

constexpr int64_t kWarmUpSteps = 3;
// Where speeds differ by less, memory decides.
constexpr double kSameSpeed = 0.03;
// What is worse by this share of fp32's figure at most is as good, however little that varies from
// seed to seed: the range of two seeds is by chance tiny.
constexpr double kSameQuality = 0.01;

// A block of steps, the same in every run of a seed: seed, number.
using Round = std::pair<int64_t, int64_t>;

double quantile(std::vector<double> sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

std::optional<double> mean_of(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::map<Round, double> block_times(const ComparisonPlan& plan, const ComparedRun& run) {
  std::map<Round, std::vector<double>> samples;
  for (const StepRecord& step : run.files.steps) {
    const bool is_first_of_block = (step.step - 1) % plan.block == 0;
    if (step.step <= kWarmUpSteps || (is_first_of_block && plan.block > 1)) continue;
    samples[{run.seed, (step.step - 1) / plan.block}].push_back(step.step_ms);
  }
  std::map<Round, double> times;
  for (const auto& [round, values] : samples) times[round] = median(values);
  return times;
}

bool is_over(const ComparedRun& run) {
  return run.files.summary.has_value() && run.files.summary->status == Status::kDone;
}

// ---- One mode

struct ModeRuns {
  std::vector<const ComparedRun*> runs;
  std::map<Round, double> times;
  std::map<int64_t, double> accuracy, loss;  // by seed, of runs that reached their end
};

ModeRuns runs_of(const ComparisonPlan& plan, const std::vector<ComparedRun>& all,
                 const std::string& mode) {
  ModeRuns result;
  for (const ComparedRun& run : all) {
    if (run.mode != mode) continue;
    result.runs.push_back(&run);
    result.times.merge(block_times(plan, run));
    if (!is_over(run) || !run.files.summary->val_loss) continue;
    result.accuracy[run.seed] = *run.files.summary->val_accuracy;
    result.loss[run.seed] = *run.files.summary->val_loss;
  }
  return result;
}

std::vector<double> values_of(const std::map<int64_t, double>& by_seed) {
  std::vector<double> values;
  for (const auto& [seed, value] : by_seed) values.push_back(value);
  return values;
}

void set_speed(ModeResult& result, const ModeRuns& own, const ModeRuns& baseline) {
  std::vector<double> times, ratios;
  for (const auto& [round, ms] : own.times) {
    times.push_back(ms);
    const auto other = baseline.times.find(round);
    if (other != baseline.times.end()) ratios.push_back(other->second / ms);
  }
  result.step_ms = spread_of(times);
  result.speedup = spread_of(ratios);
}

void set_memory(ModeResult& result, const ModeRuns& own) {
  for (const ComparedRun* run : own.runs) {
    const std::optional<Summary>& summary = run->files.summary;
    if (!summary) continue;
    if (summary->peak_tensor_bytes >= result.peak_tensor_bytes.value_or(0)) {
      result.peak_tensor_bytes = summary->peak_tensor_bytes;
      result.peak_kinds = summary->peak_kinds;
    }
    result.peak_rss_bytes = std::max(summary->peak_rss_bytes, result.peak_rss_bytes.value_or(0));
  }
}

// Seed by seed: what a mode has more than the baseline.
std::vector<double> differences(const std::map<int64_t, double>& own,
                                const std::map<int64_t, double>& baseline) {
  std::vector<double> result;
  for (const auto& [seed, value] : own) {
    const auto other = baseline.find(seed);
    if (other != baseline.end()) result.push_back(value - other->second);
  }
  return result;
}

// From the least to the most.
std::optional<Spread> range_of(const std::map<int64_t, double>& by_seed) {
  if (by_seed.size() < 2) return std::nullopt;
  const std::vector<double> values = values_of(by_seed);
  return Spread{median(values), *std::min_element(values.begin(), values.end()),
                *std::max_element(values.begin(), values.end())};
}

bool is_within(const std::optional<double>& difference, const Spread& range) {
  return difference && std::abs(*difference) <= range.high - range.low;
}

bool is_no_worse(const std::optional<double>& worse_by, double baseline,
                 const std::optional<Spread>& noise) {
  const double range = noise ? noise->high - noise->low : 0.0;
  return worse_by && *worse_by <= std::max(range, kSameQuality * baseline);
}

void set_accuracy(ModeResult& result, const ModeRuns& own, const ModeRuns& baseline,
                  const Comparison& comparison) {
  result.val_accuracy = mean_of(values_of(own.accuracy));
  result.val_loss = mean_of(values_of(own.loss));
  double sum = 0, baseline_sum = 0;
  for (const auto& [seed, accuracy] : own.accuracy) {
    const auto other = baseline.accuracy.find(seed);
    if (other == baseline.accuracy.end()) continue;
    sum += accuracy;
    baseline_sum += other->second;
  }
  if (baseline_sum > 0) result.relative_accuracy = sum / baseline_sum;
  if (!result.relative_accuracy) return;
  const auto less_accurate = mean_of(differences(baseline.accuracy, own.accuracy));
  const auto more_loss = mean_of(differences(own.loss, baseline.loss));
  result.is_as_accurate =
      is_no_worse(less_accurate, *mean_of(values_of(baseline.accuracy)),
                  comparison.noise_accuracy) &&
      is_no_worse(more_loss, *mean_of(values_of(baseline.loss)), comparison.noise_loss);
  if (!comparison.noise_accuracy || !comparison.noise_loss) return;
  result.within_noise = is_within(less_accurate, *comparison.noise_accuracy) &&
                        is_within(more_loss, *comparison.noise_loss);
}

void set_stability(ModeResult& result, const ModeRuns& own) {
  int64_t values = 0, zeros = 0;
  for (const ComparedRun* run : own.runs) {
    for (const StepRecord& step : run->files.steps) {
      result.skipped_steps += step.skipped ? 1 : 0;
      result.nonfinite_steps += std::isfinite(step.loss) ? 0 : 1;
      result.smallest_scale = std::min(step.scale, result.smallest_scale.value_or(step.scale));
    }
    if (!run->files.steps.empty()) {
      const double scale = run->files.steps.back().scale;
      result.final_scale = std::min(scale, result.final_scale.value_or(scale));
    }
    if (!run->files.gradients.empty()) {
      values += run->files.gradients.back().values;
      zeros += run->files.gradients.back().zeros_in_16_bits;
    }
    const std::optional<Summary>& summary = run->files.summary;
    if (summary && summary->diverged_at)
      result.diverged.emplace_back(run->seed, *summary->diverged_at);
    if (!run->failure.empty()) result.failures.push_back(run->failure);
  }
  if (values > 0) result.zero_gradients = static_cast<double>(zeros) / static_cast<double>(values);
}

// ---- In words

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string accuracy_words(const ModeResult& mode, const std::string& baseline) {
  if (mode.within_noise.value_or(false))
    return fmt::format("accuracy within noise of {}", baseline);
  return fmt::format("accuracy {} of {}'s", percent(*mode.relative_accuracy), baseline);
}

std::string gains(const ModeResult& mode) {
  std::string text;
  if (mode.speedup) text += fmt::format("{:.2f}x", mode.speedup->median);
  if (mode.memory_saved)
    text +=
        fmt::format("{}{:+.0f} % memory", text.empty() ? "" : ", ", 0 - 100 * *mode.memory_saved);
  return text;
}

std::string words_of(const ModeResult& mode, const std::string& baseline) {
  if (!mode.failures.empty()) return fmt::format("{} failed: {}", mode.mode, mode.failures.front());
  if (!mode.diverged.empty())
    return fmt::format("{} diverged at step {}", mode.mode, mode.diverged.front().second);
  if (!mode.relative_accuracy) return "";
  return fmt::format("{}: {}, {}", mode.mode, gains(mode), accuracy_words(mode, baseline));
}

bool is_accurate(const ModeResult& mode) {
  return mode.is_as_accurate && mode.diverged.empty() && mode.failures.empty();
}

const ModeResult* best_of(const std::vector<ModeResult>& modes) {
  const ModeResult* best = nullptr;
  for (const ModeResult& mode : modes) {
    if (!is_accurate(mode) || !mode.speedup) continue;
    if (best == nullptr) {
      best = &mode;
      continue;
    }
    const double ratio = mode.speedup->median / best->speedup->median;
    const bool is_as_fast = std::abs(ratio - 1) < kSameSpeed;
    const bool is_smaller = mode.memory_saved.value_or(0) > best->memory_saved.value_or(0);
    if (is_as_fast ? is_smaller : ratio > 1) best = &mode;
  }
  return best;
}

void set_words(Comparison& comparison, const ComparisonPlan& plan) {
  for (const ModeResult& mode : comparison.modes) {
    if (mode.mode == plan.baseline && mode.diverged.empty() && mode.failures.empty()) continue;
    const std::string words = words_of(mode, plan.baseline);
    if (words.empty()) continue;
    comparison.verdict += (comparison.verdict.empty() ? "" : "; ") + words;
  }
  const ModeResult* best = best_of(comparison.modes);
  if (best == nullptr || plan.modes.size() < 2) return;
  comparison.recommended = best->mode;
  comparison.reason =
      best->mode == plan.baseline
          ? fmt::format("no other mode is faster here at {}'s accuracy", plan.baseline)
          : fmt::format("the best here of the modes as accurate as {}: {}, {}", plan.baseline,
                        gains(*best), accuracy_words(*best, plan.baseline));
}

std::string cell(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

std::string mebibytes(const std::optional<int64_t>& bytes) {
  return bytes ? fmt::format("{} MiB", (*bytes + (int64_t{1} << 19)) >> 20) : "-";
}

}  // namespace

std::optional<Spread> spread_of(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  return Spread{median(values), quantile(values, 0.25), quantile(values, 0.75)};
}

Comparison compare_runs(const ComparisonPlan& plan, const std::vector<ComparedRun>& runs) {
  Comparison comparison;
  const ModeRuns baseline = runs_of(plan, runs, plan.baseline);
  comparison.noise_accuracy = range_of(baseline.accuracy);
  comparison.noise_loss = range_of(baseline.loss);
  ModeResult base;
  set_memory(base, baseline);
  for (const std::string& name : plan.modes) {
    const ModeRuns own = runs_of(plan, runs, name);
    ModeResult& mode = comparison.modes.emplace_back();
    mode.mode = name;
    set_speed(mode, own, baseline);
    set_memory(mode, own);
    if (mode.peak_tensor_bytes && base.peak_tensor_bytes)
      mode.memory_saved = 1.0 - static_cast<double>(*mode.peak_tensor_bytes) /
                                    static_cast<double>(*base.peak_tensor_bytes);
    set_accuracy(mode, own, baseline, comparison);
    set_stability(mode, own);
  }
  set_words(comparison, plan);
  return comparison;
}

std::string comparison_text(const Comparison& comparison) {
  std::string text = fmt::format("{:<10} {:>7} {:>15} {:>9} {:>7} {:>10} {:>10} {:>9} {:>9}  {}\n",
                                 "mode", "speed", "(quartiles)", "step", "memory", "tensors",
                                 "accuracy", "relative", "val loss", "stability");
  for (const ModeResult& mode : comparison.modes) {
    std::string stability = fmt::format("{} skipped", mode.skipped_steps);
    if (!mode.diverged.empty())
      stability = fmt::format("diverged at step {}", mode.diverged.front().second);
    if (!mode.failures.empty()) stability = "failed: " + mode.failures.front();
    const std::string speed = mode.speedup ? fmt::format("{:.2f}x", mode.speedup->median) : "-";
    const std::string quartiles =
        mode.speedup ? fmt::format("({:.2f} to {:.2f})", mode.speedup->low, mode.speedup->high)
                     : "";
    const std::string step = mode.step_ms ? fmt::format("{:.1f} ms", mode.step_ms->median) : "-";
    const std::string saved =
        mode.memory_saved ? fmt::format("{:+.0f} %", 0 - 100 * *mode.memory_saved) : "-";
    const std::string accuracy = mode.val_accuracy ? percent(*mode.val_accuracy) : "-";
    const std::string relative = mode.relative_accuracy ? percent(*mode.relative_accuracy) : "-";
    text += fmt::format("{:<10} {:>7} {:>15} {:>9} {:>7} {:>10} {:>10} {:>9} {:>9}  {}\n",
                        mode.mode, speed, quartiles, step, saved, mebibytes(mode.peak_tensor_bytes),
                        accuracy, relative, cell(mode.val_loss, "{:.4f}"), stability);
  }
  return text;
}

}  // namespace mezzo::report
