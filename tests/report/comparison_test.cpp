#include "mezzo/report/comparison.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "mezzo/report/comparison_json.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSteps = 30, kBlock = 10;

ComparisonPlan plan(std::vector<std::string> modes, std::vector<int64_t> seeds) {
  return {.modes = std::move(modes),
          .baseline = "fp32",
          .seeds = std::move(seeds),
          .steps = kSteps,
          .block = kBlock};
}

/// A run that takes `ms` a step and ends with these figures.
ComparedRun run(const std::string& mode, int64_t seed, double ms, int64_t bytes, double accuracy,
                double loss) {
  ComparedRun result;
  result.mode = mode;
  result.seed = seed;
  for (int64_t step = 1; step <= kSteps; ++step) {
    StepRecord record;
    record.step = step;
    record.loss = 5.0;
    record.step_ms = ms;
    result.files.steps.push_back(record);
  }
  Summary& summary = result.files.summary.emplace();
  summary.peak_tensor_bytes = bytes;
  summary.peak_rss_bytes = 2 * bytes;
  summary.val_accuracy = accuracy;
  summary.val_loss = loss;
  return result;
}

const ModeResult& of(const Comparison& comparison, const std::string& mode) {
  for (const ModeResult& result : comparison.modes) {
    if (result.mode == mode) return result;
  }
  throw std::out_of_range(mode);
}

TEST(Comparison, GivesSpeedMemoryAndAccuracyAgainstTheBaseline) {
  const Comparison c = compare_runs(
      plan({"fp32", "amp-bf16"}, {1}),
      {run("fp32", 1, 100.0, 1000, 0.25, 4.0), run("amp-bf16", 1, 50.0, 600, 0.24, 4.1)});
  const ModeResult& amp = of(c, "amp-bf16");
  EXPECT_EQ(amp.speedup->median, 2.0);
  EXPECT_EQ(amp.step_ms->median, 50.0);
  EXPECT_DOUBLE_EQ(*amp.memory_saved, 0.4);
  EXPECT_DOUBLE_EQ(*amp.relative_accuracy, 0.96);
  EXPECT_EQ(amp.val_loss, 4.1);
  EXPECT_FALSE(amp.within_noise.has_value()) << "one seed says nothing of the noise";
  EXPECT_EQ(of(c, "fp32").speedup->median, 1.0);
  EXPECT_EQ(of(c, "fp32").memory_saved, 0.0);
  EXPECT_EQ(c.verdict, "amp-bf16: 2.00x, -40 % memory, accuracy 96.0 % of fp32's");
}

TEST(Comparison, TheRelativeAccuracyFollowsFromTheMeansOfTheSeedsThatBothHave) {
  const std::vector<ComparedRun> runs = {
      run("fp32", 1, 9, 1, 0.01, 4.0),     run("fp32", 2, 9, 1, 0.07, 4.0),
      run("fp32", 3, 9, 1, 0.50, 4.0),     run("amp-bf16", 1, 9, 1, 0.03, 4.0),
      run("amp-bf16", 2, 9, 1, 0.03, 4.0),
  };
  const Comparison c = compare_runs(plan({"fp32", "amp-bf16"}, {1, 2, 3}), runs);
  EXPECT_DOUBLE_EQ(*of(c, "amp-bf16").relative_accuracy, 0.75) << "6 % of 8 %, not 171 %";
}

TEST(Comparison, LeavesOutTheWarmUpAndTheFirstStepOfEachBlock) {
  ComparedRun fp32 = run("fp32", 1, 100.0, 1, 0.2, 4.0);
  for (StepRecord& step : fp32.files.steps) {
    if (step.step <= 3 || step.step % kBlock == 1) step.step_ms = 1e6;
  }
  const Comparison c = compare_runs(plan({"fp32"}, {1}), {fp32});
  EXPECT_EQ(c.modes.front().step_ms->high, 100.0);
}

// The machine halves its speed for a block: both modes suffer, the ratio does not.
TEST(Comparison, ASlowSpellOfTheMachineDoesNotMoveTheRatio) {
  ComparedRun fp32 = run("fp32", 1, 100.0, 1, 0.2, 4.0);
  ComparedRun amp = run("amp-bf16", 1, 50.0, 1, 0.2, 4.0);
  for (ComparedRun* slowed : {&fp32, &amp}) {
    for (StepRecord& step : slowed->files.steps) {
      if (step.step > kBlock && step.step <= 2 * kBlock) step.step_ms *= 2;
    }
  }
  const Comparison c = compare_runs(plan({"fp32", "amp-bf16"}, {1}), {fp32, amp});
  EXPECT_EQ(of(c, "amp-bf16").speedup->low, 2.0);
  EXPECT_EQ(of(c, "amp-bf16").speedup->high, 2.0);
}

TEST(Comparison, DifferencesWithinTheBaselinesOwnSpreadAreNoise) {
  const std::vector<ComparedRun> runs = {
      run("fp32", 1, 9, 1, 0.250, 4.00),     run("fp32", 2, 9, 1, 0.260, 4.10),
      run("amp-bf16", 1, 9, 1, 0.245, 4.05), run("amp-bf16", 2, 9, 1, 0.252, 4.15),
      run("pure-bf16", 1, 9, 1, 0.23, 4.05), run("pure-bf16", 2, 9, 1, 0.24, 4.15),
      run("amp-fp16", 1, 9, 1, 0.25, 4.30),  run("amp-fp16", 2, 9, 1, 0.26, 4.40)};
  const Comparison c =
      compare_runs(plan({"fp32", "amp-bf16", "pure-bf16", "amp-fp16"}, {1, 2}), runs);
  EXPECT_EQ(of(c, "amp-bf16").within_noise, true);
  EXPECT_EQ(of(c, "pure-bf16").within_noise, false) << "the accuracy is off by twice the range";
  EXPECT_EQ(of(c, "amp-fp16").within_noise, false) << "the loss is";
  EXPECT_THAT(c.verdict, HasSubstr("amp-bf16: 1.00x, +0 % memory, accuracy within noise of fp32"));
}

TEST(Comparison, RecommendsTheFastestModeThatIsAccurate) {
  const std::vector<ComparedRun> runs = {
      run("fp32", 1, 100, 1000, 0.25, 4.0), run("amp-bf16", 1, 60, 700, 0.25, 4.0),
      run("amp-fp16", 1, 61, 600, 0.25, 4.0), run("pure-bf16", 1, 40, 500, 0.20, 5.0)};
  const Comparison c = compare_runs(plan({"fp32", "amp-bf16", "amp-fp16", "pure-bf16"}, {1}), runs);
  EXPECT_EQ(c.recommended, "amp-fp16") << "as fast as amp-bf16, and smaller; pure-bf16 is off";
  EXPECT_THAT(c.reason, HasSubstr("1.64x, -40 % memory"));
}

std::string recommended_beside_fp32(const std::vector<double>& accuracy,
                                    const std::vector<double>& loss) {
  std::vector<ComparedRun> runs;
  std::vector<int64_t> seeds;
  for (size_t i = 0; i < accuracy.size(); ++i) {
    seeds.push_back(static_cast<int64_t>(i));
    // fp32 hardly varies.
    runs.push_back(run("fp32", seeds.back(), 100, 1000, 0.25 + 1e-6 * static_cast<double>(i),
                       4.0 + 1e-6 * static_cast<double>(i)));
    runs.push_back(run("lean", seeds.back(), 50, 500, accuracy[i], loss[i]));
  }
  return compare_runs(plan({"fp32", "lean"}, seeds), runs).recommended;
}

TEST(Comparison, AModeThatIsBetterByMoreThanTheNoiseIsRecommended) {
  EXPECT_EQ(recommended_beside_fp32({0.27, 0.27}, {3.8, 3.8}), "lean");
}

TEST(Comparison, AHundredthIsAsGoodWithOneSeedAndWithTwoThatHappenToAgree) {
  EXPECT_EQ(recommended_beside_fp32({0.2480}, {4.03}), "lean");
  EXPECT_EQ(recommended_beside_fp32({0.2480, 0.2480}, {4.03, 4.03}), "lean");
  EXPECT_EQ(recommended_beside_fp32({0.2470, 0.2470}, {4.0, 4.0}), "fp32") << "1.2 % less accurate";
  EXPECT_EQ(recommended_beside_fp32({0.25, 0.25}, {4.05, 4.05}), "fp32") << "1.25 % more loss";
  EXPECT_EQ(recommended_beside_fp32({0.25}, {4.05}), "fp32");
}

TEST(Comparison, RecommendsTheBaselineWhereNothingIsFaster) {
  const Comparison c =
      compare_runs(plan({"fp32", "amp-fp16"}, {1}),
                   {run("fp32", 1, 100, 1000, 0.25, 4.0), run("amp-fp16", 1, 120, 990, 0.25, 4.0)});
  EXPECT_EQ(c.recommended, "fp32");
  EXPECT_THAT(c.reason, HasSubstr("no other mode is faster here"));
}

TEST(Comparison, ADivergedModeIsAResultAndIsNotRecommended) {
  ComparedRun pure = run("pure-fp16", 1, 10, 1, 0.9, 0.1);
  pure.files.summary->status = Status::kDiverged;
  pure.files.summary->diverged_at = 12;
  for (StepRecord& step : pure.files.steps) {
    if (step.step > 8) step.loss = NAN;
  }
  const Comparison c =
      compare_runs(plan({"fp32", "pure-fp16"}, {1}), {run("fp32", 1, 100, 1000, 0.25, 4.0), pure});
  const ModeResult& mode = of(c, "pure-fp16");
  EXPECT_EQ(mode.nonfinite_steps, kSteps - 8);
  ASSERT_EQ(mode.diverged.size(), 1u);
  EXPECT_EQ(mode.diverged.front().second, 12);
  EXPECT_FALSE(mode.val_accuracy.has_value());
  EXPECT_EQ(c.recommended, "fp32");
  EXPECT_EQ(c.verdict, "pure-fp16 diverged at step 12");
  EXPECT_THAT(comparison_text(c), HasSubstr("diverged at step 12"));
}

TEST(Comparison, ARunThatFailedIsNamedWithItsReason) {
  ComparedRun broken;
  broken.mode = "amp-bf16";
  broken.failure = "ended by signal 9 (Killed)";
  const Comparison c =
      compare_runs(plan({"fp32", "amp-bf16"}, {1}), {run("fp32", 1, 100, 1000, 0.25, 4.0), broken});
  EXPECT_EQ(c.verdict, "amp-bf16 failed: ended by signal 9 (Killed)");
}

TEST(Comparison, SaysNothingOfWhatIsNotMeasuredYet) {
  const Comparison c = compare_runs(plan({"fp32", "amp-bf16"}, {1, 2}), {});
  EXPECT_EQ(c.verdict, "");
  EXPECT_EQ(c.recommended, "");
  EXPECT_FALSE(of(c, "amp-bf16").speedup.has_value());
  EXPECT_THAT(comparison_text(c), Not(HasSubstr("nan")));
}

TEST(Comparison, CountsSkippedStepsScalesAndGradientsThatAreZero) {
  ComparedRun amp = run("amp-fp16", 1, 10, 1, 0.2, 4.0);
  amp.files.steps[4].skipped = true;
  amp.files.steps[4].scale = 65536.0;
  amp.files.steps[7].scale = 0.25;
  amp.files.gradients.push_back({.step = 30, .values = 200, .zeros = 10, .zeros_in_16_bits = 50});
  ComparedRun second = run("amp-fp16", 2, 10, 1, 0.2, 4.0);
  for (StepRecord& step : second.files.steps) step.scale = 1024.0;
  second.files.gradients.push_back({.step = 30, .values = 200, .zeros = 0, .zeros_in_16_bits = 0});
  amp.files.steps.back().scale = 2048.0;
  const Comparison c = compare_runs(plan({"amp-fp16"}, {1, 2}), {amp, second});
  EXPECT_EQ(c.modes.front().skipped_steps, 1);
  EXPECT_EQ(c.modes.front().smallest_scale, 0.25);
  EXPECT_EQ(c.modes.front().final_scale, 1024.0) << "the smallest of the seeds'";
  EXPECT_EQ(c.modes.front().zero_gradients, 0.125) << "of the gradients of all seeds";
}

TEST(ComparisonJson, HasEverySampleOfTheTable) {
  std::vector<ComparedRun> runs = {run("fp32", 7, 100.0, 1000, 0.25, 4.0)};
  runs[0].files.steps[1].loss = INFINITY;
  const ComparisonPlan p = plan({"fp32"}, {7});
  ComparisonFacts facts;
  facts.status = "done";
  facts.config = {{"steps", "30"}};
  facts.peers = R"([{"name": "PyTorch", "step_ms": 340.2}])";
  const auto json = nlohmann::json::parse(comparison_json(facts, p, runs, compare_runs(p, runs)));
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["runs"][0]["steps"]["step_ms"].size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(json["runs"][0]["steps"]["loss"][1], "inf");
  EXPECT_EQ(json["runs"][0]["summary"]["val_loss"], 4.0);
  EXPECT_EQ(json["table"][0]["speedup"]["median"], 1.0);
  EXPECT_EQ(json["peers"][0]["step_ms"], 340.2);
  EXPECT_TRUE(json["noise"].is_null());
}

}  // namespace
}  // namespace mezzo::report
