#include "mezzo/report/run_files.h"

#include <cmath>
#include <random>

#include "mezzo/base/check.h"
#include "mezzo/report/metrics_file.h"
#include "mezzo/report/summary_file.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

using mezzo::testing::TempDir;
using mezzo::testing::write_file;

TEST(RunFiles, GiveBackWhatTheSinksWrote) {
  const TempDir dir;
  Summary summary;
  summary.status = Status::kDiverged;
  summary.model = "nano";
  summary.peak_kinds = BytesByKind{1, 2, 3, 4, 5};
  summary.train_loss = NAN;
  summary.val_accuracy = 0.125;
  summary.diverged_at = 2;
  summary.explained_skips = 4;
  {
    MetricsFile metrics(dir / "metrics.jsonl", 0);
    StepRecord step;
    step.step = 1;
    step.loss = INFINITY;
    step.step_ms = 1.0 / 3;
    step.skipped = true;
    step.explained = true;
    metrics.on_step(step);
    metrics.on_eval({1, 4.5, 0.25});
    metrics.on_gradients({1, 10, 2, 3, 1, -127, {4, 3}});
    SummaryFile(dir / "summary.json").on_end(summary);
  }
  const RunFiles run = read_run_files(dir.path());
  ASSERT_EQ(run.steps.size(), 1u);
  EXPECT_EQ(run.steps[0].loss, INFINITY);
  EXPECT_EQ(run.steps[0].step_ms, 1.0 / 3);
  EXPECT_TRUE(run.steps[0].skipped);
  EXPECT_TRUE(run.steps[0].explained);
  ASSERT_EQ(run.evals.size(), 1u);
  EXPECT_EQ(run.evals[0].val_accuracy, 0.25);
  ASSERT_EQ(run.gradients.size(), 1u);
  EXPECT_EQ(run.gradients[0].zeros_in_16_bits, 3);
  EXPECT_EQ(run.gradients[0].counts, (std::vector<int64_t>{4, 3}));
  EXPECT_EQ(summary_json(*run.summary), summary_json(summary));
}

TEST(RunFiles, OfARunThatHasNotBegunAreEmpty) {
  const TempDir dir;
  const RunFiles run = read_run_files(dir.path());
  EXPECT_TRUE(run.steps.empty());
  EXPECT_FALSE(run.summary.has_value());
}

TEST(RunFiles, OfAnOlderBuildExplainNoSkip) {
  const TempDir dir;
  write_file(dir / "metrics.jsonl",
             "{\"step\":1,\"loss\":2.5,\"lr\":1e-3,\"grad_norm\":\"inf\",\"scale\":1.0,"
             "\"skipped\":true,\"step_ms\":3.0,\"tokens_per_s\":9.0}\n");
  EXPECT_FALSE(read_run_files(dir.path()).steps.at(0).explained);
}

TEST(RunFiles, PassOverTheHealthOfSteps) {
  const TempDir dir;
  HealthRecord health;
  health.step = 1;
  health.rows.resize(1);
  MetricsFile(dir / "metrics.jsonl", 0).on_health(health);
  EXPECT_TRUE(read_run_files(dir.path()).gradients.empty());
}

TEST(RunFiles, PassOverALineThatIsBeingWritten) {
  const TempDir dir;
  write_file(dir / "metrics.jsonl", "{\"step\":1,\"val_loss\":4.0,\"val_accuracy\":0.5}\n{\"st");
  EXPECT_EQ(read_run_files(dir.path()).evals.size(), 1u);
}

// Whatever stands in the files, it is read or refused in words.
TEST(RunFiles, SurviveAnyDamage) {
  const std::string metrics =
      "{\"step\":1,\"loss\":2.5,\"lr\":1e-3,\"grad_norm\":\"inf\",\"scale\":1.0,\"skipped\":true,"
      "\"step_ms\":3.0,\"tokens_per_s\":9.0}\n{\"step\":1,\"val_loss\":4.0,\"val_accuracy\":0.5}\n"
      "{\"step\":1,\"gradients\":{\"values\":3,\"zeros\":1,\"zeros_in_16_bits\":1,\"nonfinite\":0,"
      "\"first_exponent\":-3,\"counts\":[1,1]}}\n";
  const std::string summary = summary_json(Summary{});
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    const TempDir dir;
    std::string text = i % 2 == 0 ? metrics : summary;
    const size_t at = random() % text.size();
    switch (random() % 3) {
      case 0:
        text[at] = static_cast<char>(random() % 256);
        break;
      case 1:
        text.erase(at, 1 + random() % 9);
        break;
      default:
        text.resize(at);
    }
    write_file(dir / (i % 2 == 0 ? "metrics.jsonl" : "summary.json"), text);
    try {
      read_run_files(dir.path());
    } catch (const Error&) {
    }
  }
}

TEST(RunFiles, NameTheLineThatIsSomethingElse) {
  const TempDir dir;
  write_file(dir / "metrics.jsonl",
             "{\"step\":1,\"val_loss\":4.0,\"val_accuracy\":0.5}\n{\"step\":2,\"loss\":[]}\n");
  EXPECT_THROW_WITH(read_run_files(dir.path()), "line 2 is no row of a run's metrics");
  write_file(dir / "metrics.jsonl", "");
  write_file(dir / "summary.json", "{\"status\": \"asleep\"}");
  EXPECT_THROW_WITH(read_run_files(dir.path()), "is no summary of a run");
}

}  // namespace
}  // namespace mezzo::report
