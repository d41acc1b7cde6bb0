#include "mezzo/train/saved_step.h"

#include <random>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/train/diagnosis_files.h"
#include "mezzo/train/forward_backward.h"
#include "mezzo/train/run_optimizer.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/step.h"
#include "mezzo/train/trainer.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::TempDir;
using ::testing::HasSubstr;

std::vector<Batch> batches(int64_t count) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  std::vector<Batch> result;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor windows = at::randint(61, {2, 17}, generator, at::TensorOptions(at::kLong));
    result.push_back(
        {windows.narrow(1, 0, 16).contiguous(), windows.narrow(1, 1, 16).contiguous()});
  }
  return result;
}

// Two steps in the precision, and the third as it is handed over, whatever comes of it.
struct Training {
  explicit Training(const fs::path& folder, const std::string& precision, int64_t accumulate = 1,
                    const std::string& fp8_scaling = "current")
      : config(TinyRun(folder).config), mode(precision_mode(precision)) {
    config.precision = precision;
    config.accumulate = accumulate;
    config.fp8_scaling = fp8_scaling;
    if (mode.fp8_products) config.layers = 3;
    model = make_model(config, mode, at::kCPU);
    optimizer.emplace(model, mode, optim::AdamWOptions(1e-2), accumulate > 1);
    scaler.emplace(at::kCPU, scaler_options(config));
    Step step(model, *optimizer, *scaler, mode, {});
    for (int i = 0; i < 2; ++i) step.run(batches(accumulate), 1e-2);
    step.on_failure([&](const FailedStep& failed) { saved = {3, failed, config, copies()}; });
    step.examine(batches(accumulate));
  }

  TensorMap copies() const {
    TensorMap tensors;
    for (const auto& [name, tensor] : optimizer->weights()) tensors[name] = tensor.clone();
    return tensors;
  }

  RunConfig config;
  const PrecisionMode& mode;
  models::LanguageModel model{nullptr};
  std::optional<RunOptimizer> optimizer;
  std::optional<GradScaler> scaler;
  SavedStep saved{0, {{}, 1.0, RandomState(TensorMap{})}, {}, {}};
};

class SavedSteps : public ::testing::TestWithParam<std::tuple<const char*, int, const char*>> {};

TEST_P(SavedSteps, AreRunAgainBitForBit) {
  const auto [precision, accumulate, fp8_scaling] = GetParam();
  const TempDir dir;
  Training training(dir.path(), precision, accumulate, fp8_scaling);
  training.saved.failed.random.restore();
  const std::string in_the_run = diagnosis_json(
      numerics::diagnose(patient_of(training.model, training.saved.failed, training.mode)));
  save_step(dir / "step-3", training.saved);

  at::manual_seed(99);
  const SavedStep back = load_step(dir / "step-3");
  EXPECT_EQ(back.number, 3);
  EXPECT_EQ(back.config.precision, precision);
  for (const auto& [name, tensor] : training.copies())
    EXPECT_TRUE(at::equal(back.weights.at(name), tensor)) << name;
  EXPECT_EQ(diagnosis_json(examine(back, back.config).diagnosis), in_the_run);
}

TEST_P(SavedSteps, AreReplayedWithTheGradientsOfTheRun) {
  const auto [precision, accumulate, fp8_scaling] = GetParam();
  const TempDir dir;
  Training training(dir.path(), precision, accumulate, fp8_scaling);
  const FailedStep& failed = training.saved.failed;
  const auto gradients_of = [&](const std::function<void()>& step) {
    failed.random.restore();
    training.model->zero_grad();
    step();
    TensorMap gradients;
    for (const auto& item : training.model->named_parameters())
      gradients[item.key()] = item.value().grad().clone();
    return gradients;
  };
  const TensorMap replayed = gradients_of(patient_of(training.model, failed, training.mode).step);
  training.model->set_fp8_histories(failed.fp8);
  const TensorMap of_the_run = gradients_of([&] {
    forward_backward(training.model, training.mode, failed.batches,
                     [&](const at::Tensor& loss) { training.scaler->scale(loss).backward(); });
  });
  for (const auto& [name, gradient] : of_the_run)
    EXPECT_TRUE(at::equal(replayed.at(name), gradient)) << name;
}

INSTANTIATE_TEST_SUITE_P(
    InEveryMode, SavedSteps,
    ::testing::Values(std::tuple("fp32", 1, "current"), std::tuple("amp-fp16", 1, "current"),
                      std::tuple("amp-bf16", 1, "current"), std::tuple("lean", 2, "current"),
                      std::tuple("fp8", 1, "current"), std::tuple("fp8", 2, "delayed"),
                      std::tuple("pure-fp16", 1, "current"),
                      std::tuple("pure-bf16", 3, "current")));

TEST(SavedStepInFp8, IsAnotherStepWithOtherHistories) {
  const TempDir dir;
  const Training training(dir.path(), "fp8", 1, "delayed");
  const double loss = examine(training.saved, training.config).diagnosis.loss;
  EXPECT_EQ(examine(training.saved, training.config).diagnosis.loss, loss);
  SavedStep other = training.saved;
  for (auto& [name, history] : other.failed.fp8) history = history * 0x1p-4;  // all saturate
  EXPECT_NE(examine(other, training.config).diagnosis.loss, loss);
}

TEST(SavedStepInFp8, LeavesTheHistoriesOfTheRunAsTheyWere) {
  const TempDir dir;
  Training training(dir.path(), "fp8", 1, "delayed");
  Step step(training.model, *training.optimizer, *training.scaler, training.mode, {});
  TensorMap begun, after;
  step.on_failure([&](const FailedStep& failed) {
    begun = failed.fp8;
    numerics::diagnose(patient_of(training.model, failed, training.mode));
  });
  const TensorMap before = training.model->fp8_histories();
  {
    const at::NoGradGuard no_grad;
    training.model->named_parameters()["ln_f.bias"].fill_(NAN);
  }
  step.run(batches(1), 1e-2);
  after = training.model->fp8_histories();
  ASSERT_FALSE(before.empty());
  for (const auto& [name, history] : before) {
    EXPECT_TRUE(at::equal(begun.at(name), history)) << name;
    if (name.ends_with(".x")) {
      EXPECT_EQ(after.at(name)[1].item<double>(), history[0].item<double>()) << "one cast further";
    }
  }
}

TEST(SavedStepInFp8, CanBeRunInAnotherModeAndWithOtherScales) {
  const TempDir dir;
  const Training training(dir.path(), "fp8", 1, "delayed");
  for (const char* precision : {"lean", "fp32"}) {
    const RunConfig config = config_for(training.saved, {{{"precision", precision}}});
    EXPECT_TRUE(examine(training.saved, config).diagnosis.is_healthy()) << precision;
  }
  const RunConfig current = config_for(training.saved, {{{"fp8-scaling", "current"}}});
  EXPECT_TRUE(examine(training.saved, current).diagnosis.is_healthy());
}

TEST(SavedStep, IsAnotherStepWithOtherWeightsOrRandomNumbers) {
  const TempDir dir;
  const Training training(dir.path(), "amp-bf16");
  const double loss = examine(training.saved, training.config).diagnosis.loss;
  SavedStep other = training.saved;
  other.failed.random = RandomState(TensorMap{});
  at::manual_seed(99);
  EXPECT_NE(examine(other, training.config).diagnosis.loss, loss);
  other = training.saved;
  other.weights.begin()->second = other.weights.begin()->second + 1e-2;
  EXPECT_NE(examine(other, training.config).diagnosis.loss, loss);
}

TEST(SavedStep, ShowsInAnotherPrecisionOrAtAnotherScaleWhetherItIsFinite) {
  const TempDir dir;
  Training training(dir.path(), "amp-fp16");
  training.saved.failed.scale = 1e20;
  const auto is_healthy = [&](const std::map<std::string, std::string>& given) {
    return examine(training.saved, config_for(training.saved, {given})).diagnosis.is_healthy();
  };
  EXPECT_FALSE(is_healthy({}));
  EXPECT_TRUE(is_healthy({{"loss-scale", "1024"}}));
  EXPECT_FALSE(is_healthy({{"loss-scale", "1e20"}}));
  for (const char* precision : {"fp32", "amp-bf16", "lean", "pure-bf16"})
    EXPECT_TRUE(is_healthy({{"precision", precision}})) << precision;
}

TEST(SavedStep, RefusesToBecomeAnotherStep) {
  const TempDir dir;
  const Training training(dir.path(), "fp32");
  for (const char* name : {"batch", "layers", "data", "resume", "steps"})
    EXPECT_THROW_WITH(config_for(training.saved, {{{name, "3"}}}),
                      std::string("--") + name + " 3 cannot be given with a saved step");
  EXPECT_THROW_WITH(config_for(training.saved, {{{"precision", "fp17"}}}), "fp17");
}

class DamagedStep : public ::testing::TestWithParam<const char*> {};

TEST_P(DamagedStep, IsNamedWhereverItsFileIsCutOrAltered) {
  const TempDir dir;
  save_step(dir / "step-3", Training(dir.path(), "fp32").saved);
  const fs::path file = dir / "step-3" / GetParam();
  const std::string bytes = mezzo::testing::read_file(file);
  std::mt19937 random(7);
  for (int i = 0; i < 60; ++i) {
    std::string broken = bytes;
    if (i % 2 == 0) {
      broken.resize(random() % bytes.size());
    } else {
      char& byte = broken[random() % bytes.size()];
      byte = static_cast<char>(byte ^ (1 << random() % 8));
    }
    mezzo::testing::write_file(file, broken);
    EXPECT_THROW_WITH(load_step(dir / "step-3"), file.string());
  }
  fs::remove(file);
  EXPECT_THROW_WITH(load_step(dir / "step-3"), file.string());
}

INSTANTIATE_TEST_SUITE_P(EachFile, DamagedStep,
                         ::testing::Values("config.toml", "model.safetensors", "batch.safetensors",
                                           "rng.safetensors"));

TEST(SavedStep, WithADamagedStateIsAnErrorWhateverTheDamage) {
  const TempDir dir;
  save_step(dir / "step-3", Training(dir.path(), "fp32").saved);
  const fs::path file = dir / "step-3" / "step.json";
  const std::string bytes = mezzo::testing::read_file(file);
  std::mt19937 random(8);
  for (int i = 0; i < 300; ++i) {
    std::string broken = bytes;
    if (i % 2 == 0) broken.resize(random() % broken.size());
    if (!broken.empty()) broken[random() % broken.size()] = static_cast<char>(random() % 256);
    mezzo::testing::write_file(file, broken);
    try {
      const SavedStep back = load_step(dir / "step-3");  // a blank has changed
      EXPECT_EQ(back.number, 3);
    } catch (const Error&) {
    }
  }
  fs::remove(file);
  EXPECT_THROW_WITH(load_step(dir / "step-3"), "holds no saved step");
}

TEST(SavedStep, TakesThePlaceOfAnEarlierOneAndFailsWithoutATrace) {
  const TempDir dir;
  Training training(dir.path(), "fp32");
  save_step(dir / "f" / "step-3", training.saved);
  mezzo::testing::write_file(dir / "f" / "step-3" / "diagnosis.txt", "of the earlier one");
  save_step(dir / "f" / "step-3", training.saved);
  EXPECT_FALSE(fs::exists(dir / "f" / "step-3" / "diagnosis.txt"));
  training.saved.weights["undefined"] = at::Tensor();
  EXPECT_THROW(save_step(dir / "f" / "step-4", training.saved), Error);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "f"), fs::directory_iterator()), 1);
}

// A run whose every step overflows in the backward pass.
struct Failing : TinyRun {
  explicit Failing(const fs::path& folder) : TinyRun(folder), run_dir(folder / "run") {
    config.precision = "amp-fp16";
    config.loss_scale = "1e20";
    config.steps = 4;
    config.diagnose = 2;
  }

  report::Summary train(const std::optional<fs::path>& checkpoint = std::nullopt) {
    report::Sinks sinks;
    std::vector<report::StepRecord> steps;
    sinks.add(std::make_unique<RecordingSink>(steps, notes));
    Trainer trainer(config, run_dir, tokens, sinks);
    if (checkpoint.has_value()) trainer.resume(*checkpoint);
    return trainer.run(std::atomic<bool>(false));
  }

  std::vector<std::string> kept() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_dir / "failures"))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path run_dir;
  std::vector<std::string> notes;
};

TEST(FailedSteps, AreKeptUpToANumberThatHoldsForAResumedRunToo) {
  const TempDir dir;
  Failing run(dir.path());
  run.train();
  const std::vector<std::string> first_two = {"step-1", "step-2"};
  EXPECT_EQ(run.kept(), first_two);
  run.config.steps = 6;
  run.train(checkpoint_folder(run.run_dir, 4));
  EXPECT_EQ(run.kept(), first_two);
  EXPECT_FALSE(load_step(run.run_dir / "failures" / "step-2").weights.empty());
}

TEST(FailedSteps, ThatCannotBeWrittenAreDiagnosedAllTheSame) {
  const TempDir dir;
  Failing run(dir.path());
  fs::create_directories(run.run_dir);
  mezzo::testing::write_file(run.run_dir / "failures", "a file stands in the way");
  EXPECT_EQ(run.train().steps, 4);
  EXPECT_THAT(run.notes, ::testing::Contains(HasSubstr("step 1: saving it failed: ")));
  EXPECT_THAT(run.notes, ::testing::Contains(HasSubstr("backward of head")));
  EXPECT_THAT(run.notes, ::testing::Contains(HasSubstr("step 2: writing its diagnosis failed: ")));
}

}  // namespace
}  // namespace mezzo::train
