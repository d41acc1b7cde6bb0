#include "mezzo/train/step_health.h"

#include <atomic>

#include "mezzo/train/run_parts.h"
#include "mezzo/train/trainer.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;
using Row = report::HealthRecord::Row;

class HealthSink : public report::Sink {
 public:
  HealthSink(std::vector<report::HealthRecord>& health, std::vector<double>& losses)
      : health_(health), losses_(losses) {}
  std::string name() const override { return "health"; }
  void on_step(const report::StepRecord& record) override { losses_.push_back(record.loss); }
  void on_health(const report::HealthRecord& record) override { health_.push_back(record); }

 private:
  std::vector<report::HealthRecord>& health_;
  std::vector<double>& losses_;
};

struct Seen {
  std::vector<report::HealthRecord> health;
  std::vector<double> losses;
};

Seen run_with(const std::string& precision, int64_t watch, int64_t accumulate = 1,
              const std::string& loss_scale = "auto", bool releases_gradients = false) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = precision;
  run.config.watch = watch;
  run.config.accumulate = accumulate;
  run.config.loss_scale = loss_scale;
  run.config.release_gradients = releases_gradients;
  if (releases_gradients) run.config.clip = 0;
  run.config.steps = 6;
  run.config.diagnose = 0;
  Seen seen;
  report::Sinks sinks;
  sinks.add(std::make_unique<HealthSink>(seen.health, seen.losses));
  const std::atomic<bool> never = false;
  Trainer(run.config, dir / "run", run.tokens, sinks).run(never);
  return seen;
}

const Row& row(const report::HealthRecord& record, const std::string& where,
               const std::string& what) {
  for (const Row& row : record.rows) {
    if (row.where == where && row.what == what) return row;
  }
  throw std::out_of_range(where + " " + what);
}

TEST(StepHealth, IsTakenOfEveryNthStep) {
  const Seen seen = run_with("amp-bf16", 2);
  ASSERT_EQ(seen.health.size(), 3);
  EXPECT_EQ(seen.health[0].step, 2);
  EXPECT_EQ(seen.health[2].step, 6);
  EXPECT_TRUE(run_with("amp-bf16", 0).health.empty());
}

TEST(StepHealth, ChangesNoBitOfTheRun) {
  for (const char* precision : {"fp32", "amp-fp16", "lean"})
    EXPECT_EQ(run_with(precision, 2).losses, run_with(precision, 0).losses) << precision;
}

TEST(StepHealth, SeesActivationsAndGradientsInTheDtypeThatTheyAreComputedIn) {
  const report::HealthRecord health = run_with("amp-fp16", 6).health.at(0);
  const Row& activations = row(health, "h.0.mlp", "activations");
  EXPECT_EQ(activations.dtype, "fp16");
  EXPECT_GT(activations.rms, 0.0);
  EXPECT_GT(activations.largest, activations.rms);
  EXPECT_DOUBLE_EQ(activations.headroom_bits, std::log2(65504.0 / activations.largest));
  EXPECT_EQ(row(health, "h.0.mlp", "gradients").dtype, "fp16");
  EXPECT_EQ(row(run_with("fp32", 6).health.at(0), "h.0.mlp", "activations").dtype, "fp32");
}

TEST(StepHealth, GradientsOfParametersAreUnscaledThoseOfPartsAreNot) {
  // In bf16, whose range is fp32's, a power of two as scale changes no rounding.
  const report::HealthRecord plain = run_with("amp-bf16", 6, 1, "1").health.at(0);
  const report::HealthRecord scaled = run_with("amp-bf16", 6, 1, "1024").health.at(0);
  const auto ratio = [&](const char* where, const char* what) {
    return row(scaled, where, what).rms / row(plain, where, what).rms;
  };
  EXPECT_EQ(ratio("h.0.mlp", "gradients"), 1024.0);
  EXPECT_EQ(ratio("h.0.mlp.c_proj.weight", "weight gradients"), 1.0);
}

TEST(StepHealth, Pure16BitWeightsLoseUpdatesAndMastersDoNot) {
  const auto lost = [](const char* precision) {
    const report::HealthRecord health = run_with(precision, 6).health.at(0);
    return row(health, "h.0.mlp.c_fc.weight", "weights").lost_update.value();
  };
  EXPECT_GT(lost("pure-bf16"), 0.05);
  EXPECT_LT(lost("amp-bf16"), 0.01);
  EXPECT_LT(lost("lean"), 0.01);
  EXPECT_LT(lost("fp32"), 0.01);
}

TEST(StepHealth, SeesGradientsThatAreReleased) {
  const Seen seen = run_with("lean", 6, 1, "auto", /*releases_gradients=*/true);
  const Row& gradients = row(seen.health.at(0), "h.0.mlp.c_fc.weight", "weight gradients");
  EXPECT_EQ(gradients.values, 4 * 16 * 16);
  EXPECT_GT(gradients.rms, 0.0);
  EXPECT_LT(row(seen.health.at(0), "h.0.mlp.c_fc.weight", "weights").lost_update.value(), 0.01);
  EXPECT_EQ(seen.losses, run_with("lean", 0, 1, "auto", true).losses);
}

TEST(StepHealth, OfASkippedStepHasNoUpdates) {
  const report::HealthRecord health = run_with("amp-fp16", 6, 1, "1e30").health.at(0);
  EXPECT_FALSE(row(health, "h.0.mlp.c_fc.weight", "weights").update.has_value());
  EXPECT_GT(row(health, "h.0.mlp", "gradients").nonfinite, 0);
}

/// What is told of the gradients of steps, and how often those were tried.
class GradientSink : public report::Sink {
 public:
  explicit GradientSink(std::vector<report::GradientRecord>& gradients, int& retries)
      : gradients_(gradients), retries_(retries) {}
  std::string name() const override { return "gradients"; }
  void on_step(const report::StepRecord& record) override { retries_ += record.retries; }
  void on_gradients(const report::GradientRecord& record) override { gradients_.push_back(record); }

 private:
  std::vector<report::GradientRecord>& gradients_;
  int& retries_;
};

TEST(StepHealth, OfAStepThatWasTriedAgainIsThatOfItsLastAttempt) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-fp16";
  run.config.on_overflow = "retry";
  run.config.watch = run.config.eval_every = 1;
  run.config.steps = 1;
  Seen seen;
  std::vector<report::GradientRecord> gradients;
  int retries = 0;
  report::Sinks sinks;
  sinks.add(std::make_unique<HealthSink>(seen.health, seen.losses));
  sinks.add(std::make_unique<GradientSink>(gradients, retries));
  Trainer trainer(run.config, dir / "run", run.tokens, sinks);
  {  // the head's gradient is then far too large for the first scales, the loss is finite
    const at::NoGradGuard no_grad;
    trainer.model()->named_parameters()["ln_f.weight"].fill_(1000.0);
  }
  const std::atomic<bool> never = false;
  ASSERT_EQ(trainer.run(never).skipped_steps, 0);
  ASSERT_GT(retries, 0);
  EXPECT_EQ(gradients.at(0).nonfinite, 0);
  EXPECT_EQ(gradients.at(0).values, models::parameter_count(trainer.model()->config()));
  const Row& one = row(seen.health.at(0), "h.0.mlp.c_fc.weight", "weight gradients");
  EXPECT_EQ(one.nonfinite, 0);
  EXPECT_EQ(one.values, 4 * 16 * 16);
}

TEST(StepHealth, AnAccumulatedStepIsSeenWhole) {
  const report::HealthRecord one = run_with("amp-bf16", 6, 1).health.at(0);
  const report::HealthRecord two = run_with("amp-bf16", 6, 2).health.at(0);
  EXPECT_EQ(row(two, "h.0.mlp", "activations").values,
            2 * row(one, "h.0.mlp", "activations").values);
}

// A sample of 65536 elements, in fp64, has 0.5 MiB, and a matrix here 4 to 16 in fp32.
TEST(StepHealth, OfSplitWeightsCopiesASampleAlone) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-bf16";
  run.config.width = 1024;
  const PrecisionMode& mode = precision_mode(run.config.precision);
  models::LanguageModel model = make_model(run.config, mode, at::kCPU);
  const RunOptimizer optimizer(model, mode, optim::AdamWOptions(1e-3));
  optimizer.state();  // made when it is first asked for
  TensorMemoryMeter memory;
  StepHealth health(model, optimizer);
  health.after_gradients();
  health.after_step();
  EXPECT_LT(memory.peak_bytes(), 4 * models::parameter_count(model->config()) / 2);
}

}  // namespace
}  // namespace mezzo::train
