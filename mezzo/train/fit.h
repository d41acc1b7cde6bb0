#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/amp/cast_rule.h"
#include "mezzo/numerics/range_probe.h"
#include "mezzo/train/run.h"

namespace mezzo::train {

/// An op in a part of the model, as a training run showed it.
struct SeenOp {
  std::string scope;
  std::string op;                // as CastPolicy takes it: "softmax.int", "mezzo::gelu_linear"
  at::ScalarType dtype;          // of its results under the policy as it is
  std::optional<CastRule> rule;  // the policy's, now
  numerics::Range activations;   // of a run in fp32, which hides no overflow
  numerics::Range gradients;     // likewise, without a loss scale
};

/// One line of the fitted policy.
struct FittedRule {
  std::string scope;  // a pattern where all parts alike agree: "h.*.attn"; "": everywhere
  std::string op;
  CastRule rule;
  std::string reason;
  double margin_bits = 0.0;  // for kLower: how far its numbers stay from the ends of the dtype
};

/// "h.*.attn:softmax.int=lower"
std::string to_string(const FittedRule& rule);

/// What `lower` cannot hold goes to fp32: largest numbers within two powers of two of the dtype's
/// largest (gradients at the loss scale that fits the largest of all), or more than a hundredth of
/// the numbers that are not zero underflowing. What is fp32 by a rule and fits may be lower: the
/// safest first.
std::vector<FittedRule> propose_rules(const std::vector<SeenOp>& ops, at::ScalarType lower);

/// How training went on from the snapshot.
struct FitTrial {
  std::vector<double> losses;
  std::vector<double> step_ms;
  int64_t skipped = 0;
  double deviation = 0.0;  // mean |loss - that in fp32|; infinite if a loss is not finite
};

struct Fit {
  std::vector<SeenOp> ops;
  std::vector<FittedRule> rules;       // in force in `after`
  std::vector<std::string> withdrawn;  // lowered in a trial that went astray or was slower
  int64_t snapshot_step = 0;
  FitTrial before, after;   // under the policy as it was, and with the rules
  double step_ratio = 1.0;  // median over the steps, taken turn by turn, of after / before
  bool is_verified = false;
};

/// What the two trials come to beside the losses in fp32: their deviations, step_ratio over the
/// steps that both took, and is_verified, which a trial that diverged or fell short never is.
void judge_trials(Fit& fit, const std::vector<double>& exact);

/// Trains half of config.steps, looks at every op's ranges in fp32, proposes rules and trains on
/// from there (at most kTrialSteps) with and without them and in fp32, on the same data with the
/// same random numbers. Rules that lower an op are withdrawn, the least safe half at a time, until
/// the loss is as near to fp32's as the policy's was (1.5 times, or a thousandth of the loss) and
/// the step is no slower. Writes nothing.
///
/// Throws UsageError for a mode without autocast.
Fit fit_policy(const RunConfig& config, const RunData& data, report::Sinks& sinks,
               const std::atomic<bool>& stop);

constexpr int64_t kTrialSteps = 50;

/// For people: each op with its ranges and what becomes of it, and how the trial went.
std::string to_text(const Fit& fit, const RunConfig& config);

/// The policy as `mezzo train --config` takes it, with the reasons as comments.
std::string to_toml(const Fit& fit, const RunConfig& config);

}  // namespace mezzo::train
