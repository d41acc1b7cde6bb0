#include "mezzo/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <tuple>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/check.h"
#include "mezzo/numerics/range_probe.h"
#include "tests/testing.h"
#include "tests/train/load_checkpoint.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;

struct Heard {
  std::vector<report::StepRecord> steps;
  std::vector<std::string> notes;
  report::Sinks sinks;
  Heard() { sinks.add(std::make_unique<RecordingSink>(steps, notes)); }
};

const std::atomic<bool> kNeverStop{false};

void expect_same_bits(const std::map<std::string, at::Tensor>& a,
                      const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

/// Precision, the scaling of FP8, and the family.
using ModeAndFamily = std::tuple<std::string, std::string, models::Family>;

class Resume : public ::testing::TestWithParam<ModeAndFamily> {
 protected:
  static void use_mode_of(TinyRun& run) {
    const auto& [precision, scaling, family] = GetParam();
    run.config.precision = precision;
    if (precision == "fp8") run.use_fp8(scaling);
    if (family == models::Family::kLlama) run.use_llama();
  }
};

TEST_P(Resume, ContinuesBitForBit) {
  const TempDir dir;
  TinyRun run(dir.path());
  use_mode_of(run);

  Heard straight;
  Trainer whole(run.config, dir / "whole", run.tokens, straight.sinks);
  const double train_loss = whole.run(kNeverStop).train_loss;

  RunConfig until_checkpoint = run.config;
  until_checkpoint.checkpoint_every = 5;
  until_checkpoint.keep_checkpoints = 9;
  Heard first;
  {
    Trainer killed(until_checkpoint, dir / "parts", run.tokens, first.sinks);
    killed.run(kNeverStop);
  }
  Heard second;
  Trainer resumed(run.config, dir / "again", run.tokens, second.sinks);
  resumed.resume(checkpoint_folder(dir / "parts", 5));
  EXPECT_EQ(resumed.run(kNeverStop).train_loss, train_loss);

  ASSERT_EQ(second.steps.size(), 7u);
  for (size_t i = 0; i < second.steps.size(); ++i) {
    EXPECT_EQ(second.steps[i].loss, straight.steps[5 + i].loss) << "step " << second.steps[i].step;
    EXPECT_EQ(second.steps[i].scale, straight.steps[5 + i].scale);
  }
  const Checkpoint a = load_checkpoint(checkpoint_folder(dir / "whole", 12));
  const Checkpoint b = load_checkpoint(checkpoint_folder(dir / "again", 12));
  expect_same_bits(a.model, b.model);
  expect_same_bits(a.optimizer, b.optimizer);
  expect_same_bits(a.rng, b.rng);
  expect_same_bits(a.fp8, b.fp8);
  EXPECT_EQ(a.fp8.empty(), std::get<1>(GetParam()) != "delayed");
  EXPECT_EQ(a.sampler, b.sampler);
}

TEST_P(Resume, ACheckpointWrittenWhileTheRunGoesOnHasTheSameFiles) {
  const TempDir dir;
  TinyRun run(dir.path());
  use_mode_of(run);
  run.config.checkpoint_every = 5;
  run.config.keep_checkpoints = 9;
  for (const bool in_background : {false, true}) {
    Heard heard;
    Trainer trainer(run.config, dir / std::to_string(in_background), run.tokens, heard.sinks);
    if (in_background) trainer.write_checkpoints_in_background();
    trainer.run(kNeverStop);
  }
  for (const int64_t step : {5, 10, 12}) {
    const std::filesystem::path a = checkpoint_folder(dir / "0", step),
                                b = checkpoint_folder(dir / "1", step);
    for (const auto& entry : std::filesystem::directory_iterator(a)) {
      const std::filesystem::path file = entry.path().filename();
      EXPECT_EQ(mezzo::testing::read_file(a / file), mezzo::testing::read_file(b / file))
          << file << " of step " << step;
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<ModeAndFamily>& mode) {
  const auto& [precision, scaling, family] = mode.param;
  std::string name = precision + scaling + (family == models::Family::kLlama ? "Llama" : "");
  name.erase(std::min(name.find('-'), name.size()), 1);
  return name;
}

INSTANTIATE_TEST_SUITE_P(Modes, Resume,
                         ::testing::Values(ModeAndFamily("fp32", "", models::Family::kGPT2),
                                           ModeAndFamily("amp-fp16", "", models::Family::kGPT2),
                                           ModeAndFamily("amp-bf16", "", models::Family::kGPT2),
                                           ModeAndFamily("lean", "", models::Family::kGPT2),
                                           ModeAndFamily("fp8", "current", models::Family::kGPT2),
                                           ModeAndFamily("fp8", "delayed", models::Family::kGPT2),
                                           ModeAndFamily("amp-bf16", "", models::Family::kLlama),
                                           ModeAndFamily("lean", "", models::Family::kLlama),
                                           ModeAndFamily("fp8", "delayed", models::Family::kLlama)),
                         name_of);

double held_out_loss(TinyRun& run, const std::filesystem::path& folder) {
  Heard heard;
  return Trainer(run.config, folder, run.tokens, heard.sinks).run(kNeverStop).val_loss.value();
}

/// Products this small are made by one thread: two would wait for each other.
struct OneThread {
  OneThread() { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before); }
  const int before = at::get_num_threads();
};

// As mezzo compare judges: the mean's distance is no larger than the range over the seeds.
TEST(Trainer, Fp8EndsWhereBf16DoesWithinTheNoiseOfItsSeeds) {
  const OneThread one_thread;
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.steps = 80;
  run.config.layers = 3;
  std::map<std::string, std::vector<double>> losses;
  for (const int64_t seed : {1, 2}) {
    run.config.seed = seed;
    for (const char* scaling : {"current", "delayed"}) {
      run.use_fp8(scaling);
      losses[scaling].push_back(held_out_loss(run, dir / fmt::format("{}-{}", scaling, seed)));
    }
    run.config = in_precision(run.config, "amp-bf16");
    losses["amp-bf16"].push_back(held_out_loss(run, dir / fmt::format("bf16-{}", seed)));
  }
  const auto mean = [&](const char* of) {
    return std::accumulate(losses[of].begin(), losses[of].end(), 0.0) / 2.0;
  };
  const auto [least, most] =
      std::minmax_element(losses["amp-bf16"].begin(), losses["amp-bf16"].end());
  EXPECT_LT(*most, 0.7 * std::log(61.0)) << "has learned";
  for (const char* scaling : {"current", "delayed"})
    EXPECT_NEAR(mean(scaling), mean("amp-bf16"), *most - *least) << scaling;
}

TEST(Trainer, SaysOnceThatFp8IsEmulatedOnACpu) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.use_fp8("current");
  run.config.steps = 2;
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(kNeverStop);
  EXPECT_THAT(heard.notes, ::testing::ElementsAre(::testing::HasSubstr("emulated on a CPU")));
}

TEST(Trainer, RefusesFp8WhereNothingOfItCouldBe) {
  const TempDir dir;
  const auto refused = [&](auto change) {
    TinyRun run(dir.path());
    run.use_fp8("current");
    change(run.config);
    Heard heard;
    return [run = std::move(run)]() mutable {
      report::Sinks sinks;
      Trainer(run.config, run.config.out, run.tokens, sinks);
    };
  };
  EXPECT_THROW_WITH(refused([](RunConfig& config) { config.layers = 2; })(),
                    "needs 3 layers or more, but there are 2. Hint: --precision lean");
  EXPECT_THROW_WITH(refused([](RunConfig& config) { config.width = 24; })(),
                    "a width in multiples of 16, but it is 24");
  EXPECT_THROW_WITH(refused([](RunConfig& config) { config.context = 10; })(),
                    "in multiples of 16, but it has 40. Hint: another --batch");
  EXPECT_NO_THROW(refused([](RunConfig& config) { config.context = 12; })()) << "4 x 12 rows";
}

TEST(Trainer, SaysOnceThatEveryGradientIsZero) {
  const TempDir dir;
  TinyRun run(dir.path());
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& weight : trainer.model()->parameters()) weight.zero_();
  }
  trainer.run(kNeverStop);
  EXPECT_EQ(heard.steps.back().grad_norm, 0.0);
  EXPECT_EQ(std::count_if(heard.notes.begin(), heard.notes.end(),
                          [](const std::string& note) {
                            return note.starts_with("step 1: every gradient is zero");
                          }),
            1);
  EXPECT_TRUE(std::none_of(heard.notes.begin(), heard.notes.end(), [](const std::string& note) {
    return note.starts_with("step 2: every gradient");
  }));
}

TEST(Trainer, LearnsTheRuleOfItsTokens) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.steps = 150;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.status, report::Status::kDone);
  EXPECT_LT(summary.val_loss.value(), 0.5 * heard.steps.front().loss);
  EXPECT_GT(summary.val_accuracy.value(), 0.5);
}

/// The dtype that an op ran in, in a part of the model, in the last step.
at::ScalarType dtype_of(const std::string& op, const std::string& part, TinyRun& run,
                        const std::filesystem::path& folder) {
  run.config.precision = "amp-fp16";
  Heard heard;
  Trainer trainer(run.config, folder, run.tokens, heard.sinks);
  const CastPolicyGuard policy(cast_policy_of(run.config));
  numerics::RangeProbe probe(numerics::RangeProbe::Detail::kByOp);
  trainer.advance(1, kNeverStop);
  for (const numerics::ModuleRanges& ranges : probe.take())
    if (ranges.op == op && ranges.module == part) return ranges.activations.dtype;
  throw std::out_of_range(op + " in " + part);
}

TEST(Trainer, ARuleForAFusedOpActsOnItAndOneForItsPartsOnThose) {
  const TempDir dir;
  TinyRun run(dir.path());
  EXPECT_EQ(dtype_of("mezzo::gelu_linear", "h.0.mlp", run, dir / "none"), at::kHalf);
  run.config.cast_rules = "h.0.mlp:mezzo::gelu_linear=fp32";
  EXPECT_EQ(dtype_of("mezzo::gelu_linear", "h.0.mlp", run, dir / "fused"), at::kFloat);
  run.config.cast_rules = "h.0.mlp:linear=fp32";
  EXPECT_EQ(dtype_of("aten::linear", "h.0.mlp", run, dir / "parts"), at::kFloat);
}

TEST(Trainer, ARunStoppedBeforeItsFirstStepGoesOnWithLossesOfItsOwn) {
  const TempDir dir;
  const TinyRun run(dir.path());
  const std::atomic<bool> stop{true};
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(stop);
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  trainer.resume(find_checkpoint(dir / "run"));
  EXPECT_TRUE(std::isfinite(trainer.run(kNeverStop).train_loss));
}

TEST(Trainer, StopsAtTheEndOfAStepWithACheckpoint) {
  const TempDir dir;
  const TinyRun run(dir.path());
  const std::atomic<bool> stop{true};
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  EXPECT_EQ(trainer.run(stop).status, report::Status::kInterrupted);
  EXPECT_EQ(find_checkpoint(dir / "run").filename(), "step-000000");
}

TEST(Trainer, DivergedRunSaysWhenAndKeepsItsLastGoodCheckpoint) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.lr = 1e30;  // the weights leave fp32's range within a few steps
  run.config.min_lr = 1e30;
  run.config.warmup = 0;
  run.config.clip = 0;
  run.config.steps = 60;
  run.config.checkpoint_every = 1;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.status, report::Status::kDiverged);
  const auto first_bad =
      std::find_if(heard.steps.begin(), heard.steps.end(),
                   [](const report::StepRecord& step) { return !std::isfinite(step.loss); });
  EXPECT_EQ(summary.diverged_at.value(), first_bad->step);
  EXPECT_THAT(heard.notes.back(), ::testing::HasSubstr("not finite for 20 steps in a row"));
  for (const auto& folder : list_checkpoints(dir / "run")) {
    for (const auto& [name, tensor] : load_checkpoint(folder).model) {
      EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << folder << " " << name;
    }
  }
}

TEST(Trainer, ARunWhoseWeightsAreBrokenAtItsEndHasDivergedDoneOrStopped) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.steps = 2;
  run.config.diagnose = 0;
  for (const bool is_stopped : {false, true}) {
    const std::atomic<bool> stop{is_stopped};
    Heard heard;
    Trainer trainer(run.config, dir / std::to_string(is_stopped), run.tokens, heard.sinks);
    {
      const at::NoGradGuard no_grad;
      trainer.model()->named_parameters()["ln_f.weight"].fill_(NAN);
    }
    EXPECT_EQ(trainer.run(stop).status, report::Status::kDiverged);
    EXPECT_THAT(heard.notes.back(), ::testing::HasSubstr("the held-out loss is not finite"));
  }
}

TEST(Trainer, AFailedWriteEndsTheRunInTheBackgroundToo) {
  for (const int64_t every : {5, 10}) {  // heard of at the next checkpoint, and at the end
    const TempDir dir;
    TinyRun run(dir.path());
    run.config.checkpoint_every = every;
    mezzo::testing::write_file(dir / "run", "not a folder");
    Heard heard;
    Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
    trainer.write_checkpoints_in_background();
    EXPECT_THROW_WITH(trainer.run(kNeverStop), (dir / "run").string());
    EXPECT_LE(heard.steps.size(), every == 5 ? 10u : 12u);
  }
}

/// Breaks something at the first evaluation, and hears how the run has ended.
class Saboteur : public report::Sink {
 public:
  Saboteur(std::function<void()> sabotage, std::optional<report::Status>& end)
      : sabotage_(std::move(sabotage)), end_(end) {}
  std::string name() const override { return "saboteur"; }
  void on_eval(const report::EvalRecord&) override {
    if (sabotage_) std::exchange(sabotage_, nullptr)();
  }
  void on_end(const report::Summary& summary) override { end_ = summary.status; }

 private:
  std::function<void()> sabotage_;
  std::optional<report::Status>& end_;
};

TEST(Trainer, ADivergedRunWhoseLastCheckpointWasNotWrittenIsToldOfFirst) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.steps = 60;
  run.config.checkpoint_every = 5;
  mezzo::testing::write_file(dir / "run", "not a folder");
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  trainer.write_checkpoints_in_background();
  std::optional<report::Status> end;
  heard.sinks.add(std::make_unique<Saboteur>(
      [&] {
        const at::NoGradGuard no_grad;
        trainer.model()->parameters().front().fill_(NAN);
      },
      end));
  EXPECT_THROW_WITH(trainer.run(kNeverStop), (dir / "run").string());
  EXPECT_EQ(end, report::Status::kDiverged);
}

TEST(Trainer, OverflowAtTheStaticScaleSkipsAndSaysSo) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-fp16";
  run.config.loss_scale = "1e30";
  run.config.steps = 3;
  run.config.diagnose = 0;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.skipped_steps, 3);
  EXPECT_EQ(summary.explained_skips, 0);
  EXPECT_THAT(heard.notes.front(), ::testing::HasSubstr("skipped: nan in ln_f.bias (+15), scale"));
  EXPECT_THAT(heard.notes.front(), ::testing::HasSubstr("| from the loss down: born in backward"));
}

/// Reads a diagnosis for a second.
class Reader : public report::Sink {
 public:
  std::string name() const override { return "reader"; }
  void on_note(const std::string& note) override {
    if (note.find("diagnosis.txt") != note.npos)
      std::this_thread::sleep_for(std::chrono::seconds(1));
  }
};

TEST(Trainer, ADiagnosisIsNoPartOfAStepsTimeOrOfThePeak) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-fp16";
  run.config.loss_scale = "1e30";
  run.config.steps = 1;
  std::map<int64_t, int64_t> peaks;
  for (const int64_t diagnose : {0, 1}) {
    run.config.diagnose = diagnose;
    Heard heard;
    heard.sinks.add(std::make_unique<Reader>());
    Trainer trainer(run.config, dir / std::to_string(diagnose), run.tokens, heard.sinks);
    trainer.run(kNeverStop);
    EXPECT_LT(heard.steps.front().step_ms, 1000.0);
    peaks[diagnose] = heard.steps.front().peak_tensor_bytes;
  }
  EXPECT_TRUE(std::filesystem::exists(dir / "1/failures/step-1/diagnosis.txt"));
  EXPECT_LT(peaks[1], peaks[0] + 20'000) << "what a replay needs of the random generators";
}

TEST(Trainer, ProbesOfTheScaleAreCountedAndCalledSo) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-fp16";
  run.config.steps = 2;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  {  // the head's gradient is then far too large for the first scales, the loss is finite
    const at::NoGradGuard no_grad;
    trainer.model()->named_parameters()["ln_f.weight"].fill_(1000.0);
  }
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.skipped_steps, 2);
  EXPECT_EQ(summary.explained_skips, 2);
  EXPECT_TRUE(heard.steps.front().explained);
  EXPECT_THAT(heard.notes.front(),
              ::testing::EndsWith("scale 65536 -> 32768 | probe: the first scale is settling"));
}

TEST(Trainer, AnOverflowWhereTheLossIsNotScaledIsToldOnceAndNamed) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-bf16";
  run.config.steps = 3;
  run.config.diagnose = 0;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  {
    const at::NoGradGuard no_grad;
    trainer.model()->named_parameters()["ln_f.bias"][3].fill_(INFINITY);
  }
  trainer.run(kNeverStop);
  const auto told = [](const std::string& note) { return note.find("ln_f.bias") != note.npos; };
  EXPECT_EQ(std::count_if(heard.notes.begin(), heard.notes.end(), told), 1);
  EXPECT_THAT(heard.notes.front(), ::testing::HasSubstr("| in the loss or the forward pass"));
}

TEST(Trainer, FiveThousandHealthyStepsInFp16RaiseNoAlarm) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-fp16";
  run.config.steps = 5000;
  run.config.watch = 50;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.skipped_steps, summary.explained_skips);
  EXPECT_FALSE(std::filesystem::exists(dir / "run/failures"));
  for (const std::string& note : heard.notes)
    EXPECT_THAT(note, ::testing::HasSubstr("probe")) << "only skips that the scale explains";
}

TEST(Trainer, ReleasedGradientsCostLessMemoryAndChangeNoBit) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "lean";
  run.config.clip = 0;
  run.config.layers = 8;
  run.config.width = 64;
  run.config.batch = 1;  // so that the peak is where the gradients are, on every CPU
  run.config.eval_batches = 1;
  std::vector<double> peaks;
  std::vector<std::vector<double>> losses;
  for (const bool releases : {false, true}) {
    run.config.release_gradients = releases;
    Heard heard;
    Trainer trainer(run.config, dir / std::to_string(releases), run.tokens, heard.sinks);
    trainer.run(kNeverStop);
    peaks.push_back(static_cast<double>(heard.steps.back().peak_tensor_bytes));
    losses.emplace_back();
    for (const report::StepRecord& step : heard.steps) losses.back().push_back(step.loss);
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_LT(peaks[1], peaks[0]);
  const Checkpoint a = load_checkpoint(checkpoint_folder(dir / "0", 12));
  const Checkpoint b = load_checkpoint(checkpoint_folder(dir / "1", 12));
  expect_same_bits(a.model, b.model);
  expect_same_bits(a.optimizer, b.optimizer);
}

TEST(Trainer, AStepWithReleasedGradientsIsNamedAndPointedToTheDoctor) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "lean";
  run.config.clip = 0;
  run.config.release_gradients = true;
  run.config.steps = 2;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  {
    const at::NoGradGuard no_grad;
    trainer.model()->named_parameters()["ln_f.bias"][3].fill_(INFINITY);
  }
  trainer.run(kNeverStop);
  EXPECT_THAT(heard.notes.front(), ::testing::HasSubstr("ln_f.bias"));
  EXPECT_THAT(heard.notes.front(), ::testing::HasSubstr("Hint: mezzo doctor --resume"));
  EXPECT_FALSE(std::filesystem::exists(dir / "run/failures"));
}

TEST(Trainer, AnUpdateThatBreaksTheWeightsIsNamedByTheDoctorAndCostsARunNoDiagnosis) {
  for (const std::string precision : {"pure-fp16", "pure-bf16"}) {
    const TempDir dir;
    TinyRun run(dir.path());
    run.config.precision = precision;
    run.config.lr = run.config.min_lr.emplace(precision == "pure-fp16" ? 1e6 : 1e39);
    run.config.warmup = 0;
    run.config.steps = 8;
    Heard of_doctor;
    const ExaminedStep step =
        Trainer(run.config, dir / "doctor", run.tokens, of_doctor.sinks).examine(kNeverStop);
    ASSERT_FALSE(step.diagnosis.findings.empty()) << precision;
    EXPECT_EQ(step.diagnosis.is_reproduced, true) << step.diagnosis.not_reproduced;
    EXPECT_EQ(step.diagnosis.findings.front().direction, numerics::Direction::kOptimizer)
        << to_text(step.diagnosis);

    Heard of_run;
    Trainer(run.config, dir / "run", run.tokens, of_run.sinks).run(kNeverStop);
    const auto told = [](const std::string& note) {
      return note.find("an earlier step's update left it so") != note.npos;
    };
    EXPECT_EQ(std::count_if(of_run.notes.begin(), of_run.notes.end(), told), 1) << precision;
    EXPECT_FALSE(std::filesystem::exists(dir / "run/failures")) << precision;
  }
}

// Split weights are put together for it: all at once they would be 4 bytes each, where a step's
// gradients have 2.
TEST(Trainer, ACheckpointOfSplitWeightsIsNotThePeak) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-bf16";
  run.config.layers = 8;
  run.config.width = 64;
  run.config.batch = 1;
  run.config.steps = 2;
  Heard heard;
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  EXPECT_EQ(summary.peak_tensor_bytes, heard.steps.back().peak_tensor_bytes);
}

/// Needs memory after each evaluation.
class Greedy : public report::Sink {
 public:
  static constexpr int64_t kBytes = int64_t{1} << 26;
  std::string name() const override { return "greedy"; }
  void on_eval(const report::EvalRecord&) override { at::empty({kBytes}, at::kByte); }
};

TEST(Trainer, KindsAddUpToAPeakBetweenSteps) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.precision = "amp-bf16";
  run.config.steps = 2;
  Heard heard;
  heard.sinks.add(std::make_unique<Greedy>());
  Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
  const report::Summary summary = trainer.run(kNeverStop);
  ASSERT_GT(summary.peak_tensor_bytes, heard.steps.back().peak_tensor_bytes);
  const BytesByKind& kinds = summary.peak_kinds.value();
  EXPECT_EQ(kinds.weights + kinds.gradients + kinds.optimizer_state + kinds.activations +
                kinds.temporaries,
            summary.peak_tensor_bytes);
  EXPECT_EQ(kinds.gradients, 0);
  EXPECT_EQ(kinds.activations, 0);
  EXPECT_GE(kinds.temporaries, Greedy::kBytes);
}

TEST(Trainer, RefusesDataWithMoreTokensThanTheModelKnows) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.vocab_size = 32;
  Heard heard;
  EXPECT_THROW_WITH(Trainer(run.config, dir / "run", run.tokens, heard.sinks),
                    "Hint: --vocab-size 61");
}

TEST(Trainer, RefusesAHeadCountThatDoesNotDivideTheWidth) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.heads = 3;
  Heard heard;
  EXPECT_THROW_WITH(Trainer(run.config, dir / "run", run.tokens, heard.sinks), "heads");
}

TEST(Trainer, RefusesToResumeOnOtherData) {
  const TempDir dir;
  TinyRun run(dir.path());
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(kNeverStop);
  Checkpoint checkpoint = load_checkpoint(checkpoint_folder(dir / "run", run.config.steps));
  checkpoint.data_fingerprint ^= 1;
  save_checkpoint(dir / "other", checkpoint);
  Trainer resumed(run.config, dir / "again", run.tokens, heard.sinks);
  EXPECT_THROW_WITH(resumed.resume(dir / "other"), "was trained on other data");
}

TEST(Trainer, RefusesToResumeDelayedFp8WithoutWhatItsCastsRemember) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.use_fp8("delayed");
  run.config.steps = 2;
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(kNeverStop);
  Checkpoint checkpoint = load_checkpoint(checkpoint_folder(dir / "run", 2));
  checkpoint.fp8.clear();
  save_checkpoint(dir / "other", checkpoint);
  Trainer resumed(run.config, dir / "again", run.tokens, heard.sinks);
  EXPECT_THROW_WITH(resumed.resume(dir / "other"),
                    "of what 2 steps of delayed FP8 scaling remember");
  checkpoint.step = 0;  // no cast has been yet
  save_checkpoint(dir / "first", checkpoint);
  EXPECT_NO_THROW(resumed.resume(dir / "first"));
}

TEST(Trainer, GoingBackItPutsLaterCheckpointsAsideWhenItWritesItsFirst) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.checkpoint_every = 4;
  run.config.keep_checkpoints = 9;
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(kNeverStop);
  const auto go_on_from = [&](const std::string& name, int64_t steps) {
    run.config.steps = steps;
    Trainer trainer(run.config, dir / "run", run.tokens, heard.sinks);
    trainer.resume(dir / "run" / "checkpoints" / name);
    trainer.run(kNeverStop);
  };
  go_on_from("step-000004", 4);  // at once at its end
  EXPECT_EQ(find_checkpoint(dir / "run"), checkpoint_folder(dir / "run", 12));
  go_on_from("step-000004", 6);
  EXPECT_EQ(find_checkpoint(dir / "run"), checkpoint_folder(dir / "run", 6));
  go_on_from("abandoned-step-000012", 12);
  EXPECT_EQ(find_checkpoint(dir / "run"), checkpoint_folder(dir / "run", 12));
  go_on_from("abandoned-step-000012", 12);  // where there is one of this step
  EXPECT_EQ(list_checkpoints(dir / "run").size(), 3u);
  EXPECT_TRUE(std::filesystem::exists(dir / "run/checkpoints/abandoned-step-000012-2"));
}

TEST(Trainer, RefusesACheckpointOfAnotherModel) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.steps = 1;
  Heard heard;
  Trainer(run.config, dir / "run", run.tokens, heard.sinks).run(kNeverStop);
  run.config.width = 32;
  Trainer other(run.config, dir / "other", run.tokens, heard.sinks);
  EXPECT_THROW_WITH(other.resume(find_checkpoint(dir / "run")), "does not fit the run: ");
}

// Beside the weights, which are there: the state as it is made and as it is read (8 bytes each),
// not the weights of the file as well.
TEST(Trainer, ResumingHoldsTheWeightsAndTheStateOfTheFileInTurnAndIsNotThePeak) {
  const TempDir dir;
  TinyRun run(dir.path());
  run.config.layers = 8;
  run.config.width = 64;
  run.config.batch = 1;
  run.config.steps = 2;
  Heard first;
  const report::Summary whole =
      Trainer(run.config, dir / "run", run.tokens, first.sinks).run(kNeverStop);
  run.config.steps = 4;
  Heard second;
  TensorMemoryMeter all;
  Trainer resumed(run.config, dir / "run", run.tokens, second.sinks);
  const int64_t before = all.current_bytes();
  all.reset_peak();
  resumed.resume(find_checkpoint(dir / "run"));
  EXPECT_LT(all.peak_bytes() - before, 18 * whole.parameters);
  EXPECT_LT(static_cast<double>(resumed.run(kNeverStop).peak_tensor_bytes),
            1.1 * static_cast<double>(whole.peak_tensor_bytes));
}

}  // namespace
}  // namespace mezzo::train
