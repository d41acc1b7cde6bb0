#include "mezzo/train/fit.h"

#include <atomic>
#include <cmath>

#include <ATen/ops/full.h>

#include "mezzo/base/error.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

numerics::Range range_of(double value) {
  numerics::Range range;
  range.add(at::full({8}, value));
  return range;
}

SeenOp seen(const std::string& scope, const std::string& op, double activations, double gradients,
            at::ScalarType dtype, CastRule rule) {
  return {scope, op, dtype, rule, range_of(activations), range_of(gradients)};
}

std::vector<std::string> texts(const std::vector<FittedRule>& rules) {
  std::vector<std::string> result;
  for (const FittedRule& rule : rules) result.push_back(to_string(rule));
  return result;
}

TEST(ProposeRules, WhatFp16CannotHoldGoesToFp32) {
  const std::vector<FittedRule> rules =
      propose_rules({seen("h.0.mlp", "linear", 20000, 1, at::kHalf, CastRule::kLower),
                     seen("h.1.mlp", "linear", 10, 1, at::kHalf, CastRule::kLower)},
                    at::kHalf);
  ASSERT_THAT(texts(rules), ElementsAre("h.0.mlp:linear=fp32"));
  EXPECT_THAT(rules[0].reason,
              HasSubstr("activations reach 2e+04, fp16's largest number is 65504"));
}

TEST(ProposeRules, PartsThatAgreeShareAPattern) {
  EXPECT_THAT(texts(propose_rules({seen("h.0.mlp", "linear", 2e4, 1, at::kHalf, CastRule::kLower),
                                   seen("h.1.mlp", "linear", 3e4, 1, at::kHalf, CastRule::kLower),
                                   seen("head", "linear", 3, 1, at::kHalf, CastRule::kLower)},
                                  at::kHalf)),
              ElementsAre("h.*.mlp:linear=fp32"));
}

TEST(ProposeRules, WhatIsFp32ByARuleAndFitsMayBeLower) {
  const SeenOp softmax =
      seen("h.0.attn", "softmax.int", 1, 0.5, at::kFloat, CastRule::kFp32SetDtype);
  EXPECT_THAT(texts(propose_rules({softmax}, at::kHalf)),
              ElementsAre("h.*.attn:softmax.int=lower"));
  EXPECT_THAT(texts(propose_rules({softmax}, at::kBFloat16)),
              ElementsAre("h.*.attn:softmax.int=lower"));
  SeenOp promoted = softmax;
  promoted.rule = CastRule::kPromote;
  EXPECT_THAT(propose_rules({promoted}, at::kHalf), IsEmpty());
}

// The loss scale fits the largest gradient of all, so one 2^40 times smaller is lost.
TEST(ProposeRules, GradientsThatUnderflowBesideOthersGoToFp32) {
  const std::vector<FittedRule> rules =
      propose_rules({seen("head", "linear", 1, 1.0, at::kHalf, CastRule::kLower),
                     seen("h.0.mlp", "linear", 1, 0x1p-40, at::kHalf, CastRule::kLower)},
                    at::kHalf);
  ASSERT_THAT(texts(rules), ElementsAre("h.*.mlp:linear=fp32"));
  EXPECT_EQ(rules[0].reason, "100.0 % of its gradients underflow in fp16 at scale 8192");
  EXPECT_THAT(
      propose_rules({seen("h.0.mlp", "linear", 1, 0x1p-40, at::kBFloat16, CastRule::kLower)},
                    at::kBFloat16),
      IsEmpty())
      << "bf16 has fp32's range";
}

TEST(ProposeRules, TheSafestOfThoseThatLowerComesFirstAfterAllThatRaise) {
  EXPECT_THAT(texts(propose_rules({seen("a", "softmax.int", 9000, 1, at::kFloat, CastRule::kFp32),
                                   seen("b", "exp", 1, 1, at::kFloat, CastRule::kFp32),
                                   seen("c", "linear", 6e4, 1, at::kHalf, CastRule::kLower)},
                                  at::kHalf)),
              ElementsAre("c:linear=fp32", "b:exp=lower", "a:softmax.int=lower"));
}

FitTrial trial(const std::vector<double>& losses, double step_ms) {
  return {losses, std::vector<double>(losses.size(), step_ms), 0};
}

TEST(FitTrials, OneThatStaysNearFp32IsVerifiedThoughTheOldPolicysDiverged) {
  Fit fit;
  fit.before = trial({4, NAN}, 10);
  fit.after = trial({4, 3, 2}, 8);
  judge_trials(fit, {4, 3, 2});
  EXPECT_TRUE(fit.is_verified);
  EXPECT_EQ(fit.step_ratio, 0.8) << "of the steps that both took";
  EXPECT_EQ(fit.after.deviation, 0);
}

TEST(FitTrials, OneThatDivergesIsNotVerifiedThoughTheOldPolicysDivergedToo) {
  Fit fit;
  fit.before = fit.after = trial({4, NAN}, 10);
  judge_trials(fit, {4, 3, 2});
  EXPECT_FALSE(fit.is_verified);
}

TEST(FitTrials, OneThatEndsEarlyIsNotVerified) {
  Fit fit;
  fit.before = trial({4, 3, 2}, 10);
  fit.after = trial({4, 3}, 10);
  judge_trials(fit, {4, 3, 2});
  EXPECT_FALSE(fit.is_verified);
}

struct FitRun {
  explicit FitRun(const TempDir& dir) : run(dir.path()) {
    run.config.steps = 40;
    run.config.diagnose = 0;
  }
  Fit fit() {
    const std::atomic<bool> never = false;
    const RunData data{std::nullopt, std::move(run.tokens)};
    report::Sinks sinks;
    return fit_policy(run.config, data, sinks, never);
  }
  TinyRun run;
};

TEST(FitPolicy, LowersWhatWasKeptInFp32AndVerifiesItByTraining) {
  const TempDir dir;
  FitRun of(dir);
  of.run.config.precision = "amp-bf16";
  of.run.config.cast_rules = "linear=fp32";
  const Fit fit = of.fit();
  EXPECT_EQ(fit.snapshot_step, 20);
  EXPECT_EQ(fit.after.losses.size(), 20);
  EXPECT_TRUE(fit.is_verified) << to_text(fit, of.run.config);
  // Whether it is faster is the machine's to say.
  std::vector<std::string> considered = fit.withdrawn;
  for (const std::string& rule : texts(fit.rules)) considered.push_back(rule);
  EXPECT_THAT(considered, ::testing::Contains("h.*.mlp:linear=lower"));
}

TEST(FitPolicy, WritesRulesThatTheRunTakes) {
  const TempDir dir;
  FitRun of(dir);
  of.run.config.precision = "amp-fp16";
  Fit fit = of.fit();
  fit.rules = {{"h.*.mlp", "linear", CastRule::kFp32, "because"}};
  const std::string toml = to_toml(fit, of.run.config);
  EXPECT_THAT(toml, HasSubstr("cast-rules = \"h.*.mlp:linear=fp32\""));
  mezzo::testing::write_file(dir / "fitted.toml", toml);
  const RunConfig config = resolve_config({.values = {{"config", (dir / "fitted.toml").string()}}});
  EXPECT_EQ(config.precision, "amp-fp16");
  EXPECT_EQ(cast_policy_of(config).overrides().size(), 1);
}

TEST(FitPolicy, IsRefusedWhereNothingIsCast) {
  const TempDir dir;
  FitRun of(dir);
  of.run.config.precision = "fp32";
  EXPECT_THROW_WITH(of.fit(), "--fit needs a mode with autocast, but --precision is fp32");
}

}  // namespace
}  // namespace mezzo::train
