#include "mezzo/train/fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include <fmt/format.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/median.h"
#include "mezzo/train/failed_step.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/trainer.h"

namespace mezzo::train {
namespace {

constexpr int64_t kSurveySteps = 4;
constexpr double kSlack = 1.5;      // of the deviation that the policy has as it is
constexpr double kFloor = 1e-3;     // of the loss: deviations below it are none
constexpr double kSlowdown = 1.02;  // that lowering may cost before it is withdrawn

/// Keeps what a trial's steps were like.
class TrialSink : public report::Sink {
 public:
  explicit TrialSink(FitTrial& trial) : trial_(trial) {}
  std::string name() const override { return "trial"; }
  void on_step(const report::StepRecord& record) override {
    trial_.losses.push_back(record.loss);
    trial_.step_ms.push_back(record.step_ms);
    trial_.skipped += record.skipped ? 1 : 0;
  }

 private:
  FitTrial& trial_;
};

/// A run that goes on from the snapshot, beside others: its random numbers are its own.
class Contender {
 public:
  Contender(RunConfig config, const RunData& data, const Checkpoint& snapshot)
      : config_(silent(std::move(config))), policy_(cast_policy_of(config_)) {
    sinks_.add(std::make_unique<TrialSink>(trial_));
    const CastPolicyGuard guard(policy_);
    trainer_.emplace(config_, std::filesystem::path(), data.tokens, sinks_);
    trainer_->begin_at(snapshot);
    random_.emplace(at::Device(config_.device));
  }

  void step(const std::atomic<bool>& stop) {
    random_->restore();
    const CastPolicyGuard guard(policy_);
    trainer_->advance(trainer_->step() + 1, stop);
    random_.emplace(at::Device(config_.device));
  }

  /// As a model runs whose policy has rules: each op of libtorch's by itself, to be listened to.
  void run_op_by_op() {
    trainer_->model()->set_fused(false);
    trainer_->run_op_by_op();
  }
  const FitTrial& trial() const { return trial_; }

 private:
  static RunConfig silent(RunConfig config) {
    config.diagnose = 0;
    config.watch = 0;
    config.eval_every = 0;
    return config;
  }

  RunConfig config_;
  CastPolicy policy_;
  FitTrial trial_;
  report::Sinks sinks_;
  std::optional<Trainer> trainer_;
  std::optional<RandomState> random_;
};

RunConfig in_fp32(const RunConfig& config) {
  RunConfig exact = in_precision(config, "fp32");
  exact.loss_scale = "none";
  return exact;
}

RunConfig with_rules(RunConfig config, const std::vector<FittedRule>& rules) {
  for (const FittedRule& rule : rules)
    config.cast_rules += (config.cast_rules.empty() ? "" : ", ") + to_string(rule);
  return config;
}

std::vector<numerics::ModuleRanges> survey(const RunConfig& config, const RunData& data,
                                           const Checkpoint& snapshot, int64_t steps,
                                           const std::atomic<bool>& stop) {
  Contender contender(config, data, snapshot);
  contender.run_op_by_op();
  numerics::RangeProbe probe(numerics::RangeProbe::Detail::kByOp);
  for (int64_t i = 0; i < steps && !stop; ++i) contender.step(stop);
  return probe.take();
}

std::string without_aten(const std::string& op) {
  return op.starts_with("aten::") ? op.substr(6) : op;
}

std::vector<SeenOp> seen_ops(const RunConfig& config,
                             const std::vector<numerics::ModuleRanges>& in_mode,
                             const std::vector<numerics::ModuleRanges>& in_fp32) {
  const CastPolicy policy = cast_policy_of(config);
  const c10::DeviceType device = at::Device(config.device).type();
  std::vector<SeenOp> ops;
  for (const numerics::ModuleRanges& exact : in_fp32) {
    const auto same = std::find_if(in_mode.begin(), in_mode.end(), [&](const auto& other) {
      return other.module == exact.module && other.op == exact.op;
    });
    if (same == in_mode.end() || exact.activations.magnitudes.values == 0) continue;
    const std::string name = without_aten(exact.op);
    ops.push_back({exact.module, name, same->activations.dtype,
                   policy.rule(name, device, exact.module), exact.activations, exact.gradients});
  }
  return ops;
}

// Ops that no rule can be set for are left as they are: that is how autograd's own are.
bool can_be_set(const FittedRule& rule) {
  try {
    CastPolicy::mezzo().set(rule.op, rule.rule, rule.scope);
    return true;
  } catch (const Error&) {
    return false;
  }
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& losses, const std::vector<double>& exact) {
  double sum = 0.0;
  const size_t N = std::min(losses.size(), exact.size());
  for (size_t i = 0; i < N; ++i) sum += std::abs(losses[i] - exact[i]);
  return std::isfinite(sum) && N > 0 ? sum / static_cast<double>(N)
                                     : std::numeric_limits<double>::infinity();
}

/// The policy as it was and the fitted one, step by step in turn.
void compete(Fit& fit, const RunConfig& config, const RunData& data, const Checkpoint& snapshot,
             const std::vector<double>& exact, const std::atomic<bool>& stop) {
  Contender before(config, data, snapshot);
  Contender after(with_rules(config, fit.rules), data, snapshot);
  for (size_t i = 0; i < exact.size() && !stop; ++i) {
    before.step(stop);
    after.step(stop);
  }
  fit.before = before.trial();
  fit.after = after.trial();
  judge_trials(fit, exact);
}

/// Takes the less safe half of the rules that lower away; false if there are none.
bool withdraw(Fit& fit) {
  const auto lowers = [](const FittedRule& rule) { return rule.rule == CastRule::kLower; };
  const auto first = std::find_if(fit.rules.begin(), fit.rules.end(), lowers);
  if (first == fit.rules.end()) return false;
  const auto from = first + (fit.rules.end() - first) / 2;
  for (auto rule = from; rule != fit.rules.end(); ++rule) fit.withdrawn.push_back(to_string(*rule));
  fit.rules.erase(from, fit.rules.end());
  return true;
}

}  // namespace

// A trial that diverges ends before the others.
void judge_trials(Fit& fit, const std::vector<double>& exact) {
  fit.before.deviation = deviation(fit.before.losses, exact);
  fit.after.deviation = deviation(fit.after.losses, exact);
  std::vector<double> ratios;
  const size_t steps = std::min(fit.before.step_ms.size(), fit.after.step_ms.size());
  for (size_t i = 0; i < steps; ++i) ratios.push_back(fit.after.step_ms[i] / fit.before.step_ms[i]);
  fit.step_ratio = median(std::move(ratios));
  fit.is_verified =
      std::isfinite(fit.after.deviation) && fit.after.losses.size() == exact.size() &&
      fit.after.deviation <= std::max(kSlack * fit.before.deviation, kFloor * mean(exact)) &&
      fit.after.skipped <= fit.before.skipped;
}

Fit fit_policy(const RunConfig& config_in, const RunData& data, report::Sinks& sinks,
               const std::atomic<bool>& stop) {
  RunConfig config = config_in;
  config.diagnose = 0;               // it would write into the run's folder
  config.release_gradients = false;  // the bits are the same
  const PrecisionMode& mode = precision_mode(config.precision);
  MEZZO_CHECK_USAGE(mode.autocast.has_value(), "doctor",
                    "--fit needs a mode with autocast, but --precision is {}. Hint: --precision "
                    "amp-bf16, amp-fp16, lean or fp8",
                    config.precision);
  MEZZO_CHECK_USAGE(config.cast_rules.empty() || !is_fused(config), "doctor",
                    "--fit fits rules for libtorch's ops, but --cast-rules {} is for Mezzo's fused "
                    "ones, which do not run beside such rules. Hint: leave it out",
                    config.cast_rules);
  Checkpoint snapshot;
  {
    const CastPolicyGuard policy(cast_policy_of(config));
    Trainer trainer(config, config.out, data.tokens, sinks);
    if (!config.resume.empty()) trainer.resume(find_checkpoint(config.resume));
    sinks.on_start(trainer.info());
    trainer.advance(std::max(trainer.step(), config.steps / 2), stop);
    snapshot = trainer.snapshot();
  }
  Fit fit;
  fit.snapshot_step = snapshot.step;
  const auto in_mode = survey(config, data, snapshot, 1, stop);
  fit.ops = seen_ops(config, in_mode, survey(in_fp32(config), data, snapshot, kSurveySteps, stop));
  for (FittedRule& rule : propose_rules(fit.ops, *mode.autocast)) {
    if (can_be_set(rule)) fit.rules.push_back(std::move(rule));
  }

  Contender exact(in_fp32(config), data, snapshot);
  const int64_t steps = std::clamp<int64_t>(config.steps - snapshot.step, 1, kTrialSteps);
  for (int64_t i = 0; i < steps && !stop; ++i) exact.step(stop);
  do {
    compete(fit, config, data, snapshot, exact.trial().losses, stop);
  } while (!stop && (!fit.is_verified || fit.step_ratio > kSlowdown) && withdraw(fit));
  return fit;
}

std::string to_text(const Fit& fit, const RunConfig& config) {
  std::string text = fmt::format("{} of {} in {}, from step {} on, {} steps with {} rules\n\n",
                                 "the cast policy", model_name(config), config.precision,
                                 fit.snapshot_step, fit.after.losses.size(), fit.rules.size());
  text += fmt::format("{:<14} {:<30} {:>5} {:>12} {:>12}\n", "part", "op", "dtype", "activations",
                      "gradients");
  for (const SeenOp& op : fit.ops)
    text += fmt::format("{:<14} {:<30} {:>5} {:>12.3g} {:>12.3g}\n", op.scope, op.op,
                        float_format(op.dtype).name, op.activations.magnitudes.largest,
                        op.gradients.magnitudes.largest);
  text += "\n";
  for (const FittedRule& rule : fit.rules)
    text += fmt::format("rule       {}: {}\n", to_string(rule), rule.reason);
  if (fit.rules.empty()) text += "rule       none: every op is in the lowest type that holds it\n";
  for (const std::string& rule : fit.withdrawn)
    text += fmt::format("withdrawn  {}: with it the run went astray, or no faster\n", rule);
  text += fmt::format("{}  mean |loss - fp32's| {:.2g}, before {:.2g}; step {:.3f} of the time\n",
                      fit.is_verified ? "verified " : "NOT verified", fit.after.deviation,
                      fit.before.deviation, fit.step_ratio);
  return text;
}

std::string to_toml(const Fit& fit, const RunConfig& config) {
  std::string text = fmt::format(
      "# A cast policy fitted to {} in {} at step {}.\n"
      "# Over {} steps from there mean |loss - fp32's| was {:.2g}, and {:.2g} without the rules.\n",
      model_name(config), config.precision, fit.snapshot_step, fit.after.losses.size(),
      fit.after.deviation, fit.before.deviation);
  for (const FittedRule& rule : fit.rules)
    text += fmt::format("#   {}: {}\n", to_string(rule), rule.reason);
  return text + fmt::format("precision = \"{}\"\ncast-policy = \"{}\"\ncast-rules = \"{}\"\n",
                            config.precision, config.cast_policy,
                            with_rules(config, fit.rules).cast_rules);
}

}  // namespace mezzo::train
