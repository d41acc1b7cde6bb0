// Whole runs on a GPU: the step's graph beside all that comes between its launches.
#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/train/fit.h"
#include "mezzo/train/trainer.h"
#include "tests/testing.h"
#include "tests/train/load_checkpoint.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

const std::atomic<bool> kNeverStop{false};

struct GpuRun : TinyRun {
  explicit GpuRun(const TempDir& dir) : TinyRun(dir.path()) {
    config.device = "cuda";
    sinks.add(std::make_unique<RecordingSink>(steps, notes));
  }
  std::vector<report::StepRecord> steps;
  std::vector<std::string> notes;
  report::Sinks sinks;
};

class RunOnGpu : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  }
};

// With dropout: whether a step is launched as a graph or run op by op, it draws as much.
TEST_P(RunOnGpu, GoesOnFromACheckpointAsItWouldHaveGoneOn) {
  const TempDir dir, other;
  GpuRun whole(dir), resumed(other);
  for (GpuRun* run : {&whole, &resumed}) {
    run->config.precision = GetParam();
    run->config.eval_every = run->config.checkpoint_every = 5;
    run->config.keep_checkpoints = 9;
  }
  Trainer(whole.config, dir / "whole", whole.tokens, whole.sinks).run(kNeverStop);
  ASSERT_EQ(whole.steps.size(), 12);
  EXPECT_THAT(whole.notes, Each(Not(HasSubstr("CUDA graph"))));

  Trainer second(resumed.config, other / "resumed", resumed.tokens, resumed.sinks);
  second.resume(checkpoint_folder(dir / "whole", 5));
  second.run(kNeverStop);
  ASSERT_EQ(resumed.steps.size(), 7);
  for (size_t i = 0; i < resumed.steps.size(); ++i) {
    const double want = whole.steps[5 + i].loss;
    EXPECT_NEAR(resumed.steps[i].loss, want, 0.1 * want) << "step " << resumed.steps[i].step;
  }
  for (const int64_t step : {10, 12}) {
    const Checkpoint a = load_checkpoint(checkpoint_folder(dir / "whole", step)),
                     b = load_checkpoint(checkpoint_folder(other / "resumed", step));
    for (const auto& [device, state] : a.rng)
      EXPECT_TRUE(at::equal(state, b.rng.at(device))) << device << ", step " << step;
  }
}

TEST_P(RunOnGpu, IsExamined) {
  const TempDir dir;
  GpuRun run(dir);
  run.config.precision = GetParam();
  run.config.steps = StepGraph::kWarmUpSteps + 2;
  Trainer trainer(run.config, "", run.tokens, run.sinks);
  EXPECT_NO_THROW(trainer.examine(kNeverStop));
}

INSTANTIATE_TEST_SUITE_P(Modes, RunOnGpu, ::testing::Values("fp32", "amp-fp16", "lean"),
                         [](const auto& mode) {
                           std::string name = mode.param;
                           return name == "amp-fp16" ? "amp_fp16" : name;
                         });

TEST(FitPolicyOnGpu, SeesEachOpOfMoreStepsThanItTakesToRecordOne) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  const TempDir dir;
  GpuRun run(dir);
  run.config.precision = "amp-bf16";
  const RunData data{std::nullopt, std::move(run.tokens)};
  const Fit fit = fit_policy(run.config, data, run.sinks, kNeverStop);
  EXPECT_FALSE(fit.ops.empty());
  EXPECT_EQ(fit.after.losses.size(), 6);
}

}  // namespace
}  // namespace mezzo::train
