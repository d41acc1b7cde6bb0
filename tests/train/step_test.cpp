#include "mezzo/train/step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/amp/checkpoint.h"
#include "mezzo/amp/overflow_report.h"
#include "mezzo/base/float_format.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/optim/parameter_groups.h"
#include "mezzo/train/forward_backward.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

models::ModelConfig tiny(const PrecisionMode& mode) {
  // In FP8 are the layers between the first and the last.
  const int64_t layers = mode.fp8_products ? 3 : 1;
  return {.layers = layers, .heads = 2, .width = 16, .context = 8, .vocab_size = 32};
}

std::vector<Batch> batches(int64_t count) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  std::vector<Batch> result;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor windows = at::randint(32, {2, 9}, generator, at::TensorOptions(at::kLong));
    result.push_back({windows.narrow(1, 0, 8).contiguous(), windows.narrow(1, 1, 8).contiguous()});
  }
  return result;
}

struct Training {
  explicit Training(const char* precision, GradScalerOptions scaling = {}, StepOptions options = {},
                    const std::optional<models::ModelConfig>& config = std::nullopt)
      : mode(precision_mode(precision)),
        model(config.value_or(tiny(mode)), 7),
        optimizer(model, mode, optim::AdamWOptions()),
        scaler(at::kCPU, scaling),
        step(model, optimizer, scaler, mode, options) {
    if (mode.fp8_products) model->set_fp8(kernels::Fp8Scaling{});
  }

  std::vector<at::Tensor> snapshot() {
    std::vector<at::Tensor> tensors;
    for (const auto& [name, tensor] : optimizer.weights()) tensors.push_back(tensor.clone());
    for (const auto& [name, tensor] : optimizer.state()) tensors.push_back(tensor.clone());
    return tensors;
  }

  const PrecisionMode& mode;
  models::GPT2 model;
  RunOptimizer optimizer;
  GradScaler scaler;
  Step step;
};

bool are_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!at::equal(a[i], b[i])) return false;
  }
  return true;
}

// 2^100 overflows the fp16 backward pass for certain; halved 2^10-fold a step, it comes to where it
// fits.
const GradScalerOptions kTooHigh{.init_scale = 0x1p100, .backoff_factor = 0x1p-20};

TEST(Step, LowersTheLossInEveryMode) {
  for (const char* precision : {"fp32", "amp-fp16", "amp-bf16"}) {
    Training training(precision,
                      {.init_scale = 1024.0, .enabled = precision_mode(precision).scales_loss});
    const double first = training.step.run(batches(1), 1e-2).loss;
    double last = first;
    for (int i = 0; i < 20; ++i) last = training.step.run(batches(1), 1e-2).loss;
    EXPECT_LT(last, 0.8 * first) << precision;
  }
}

TEST(Step, SkippedStepLeavesWeightsAndOptimizerStateBitForBitAndLowersTheScale) {
  Training training("amp-fp16", kTooHigh);
  const std::vector<at::Tensor> before = training.snapshot();
  const StepResult result = training.step.run(batches(1), 1e-2);
  EXPECT_TRUE(result.is_skipped);
  EXPECT_EQ(result.scale, 0x1p100);
  EXPECT_EQ(training.scaler.get_scale(), 0x1p80);
  EXPECT_TRUE(are_equal(training.snapshot(), before));
  EXPECT_TRUE(std::isfinite(result.loss));  // it was the scaled gradient that overflowed
}

TEST(Step, TellsWhatTheGradientsOfASkippedStepHeldInForwardOrder) {
  Training training("amp-fp16", kTooHigh);
  const StepResult result = training.step.run(batches(1), 1e-2);
  ASSERT_EQ(result.gradients.size(), training.model->named_parameters().size());
  EXPECT_EQ(result.gradients.front().name, "wte.weight");
  EXPECT_EQ(result.gradients.back().name, "ln_f.bias");
  EXPECT_GT(result.gradients.back().facts.non_finite(), 0);
  EXPECT_EQ(name_overflow(result.gradients).substr(4), "in ln_f.bias (+15)");
}

TEST(Step, ASkipWhileTheFirstScaleSettlesIsExplained) {
  Training training("amp-fp16", kTooHigh);
  EXPECT_EQ(training.step.run(batches(1), 1e-2).skip_cause, SkipCause::kSettling);
}

TEST(Step, ASkipRightAfterTheScaleGrewIsExplained) {
  // From 1024 to 2^60: far beyond what any gradient bears.
  Training training("amp-fp16",
                    {.init_scale = 1024.0, .growth_factor = 0x1p50, .growth_interval = 1});
  EXPECT_FALSE(training.step.run(batches(1), 1e-2).is_skipped);
  const StepResult result = training.step.run(batches(1), 1e-2);
  EXPECT_TRUE(result.is_skipped);
  EXPECT_EQ(result.skip_cause, SkipCause::kGrowthProbe);
}

TEST(Step, ASkipAtAResumedScaleIsNotTheFirstScaleSettling) {
  Training training("amp-fp16", kTooHigh);
  training.step.resume();
  EXPECT_EQ(training.step.run(batches(1), 1e-2).skip_cause, SkipCause::kUnexplained);
}

TEST(Step, NamesTheParametersThatAreNotFiniteWhereTheLossIsNotScaled) {
  Training training("amp-bf16", {.enabled = false});
  EXPECT_TRUE(training.step.run(batches(1), 1e-2).gradients.empty());
  {
    const at::NoGradGuard no_grad;
    training.model->named_parameters()["ln_f.bias"][3].fill_(
        std::numeric_limits<float>::infinity());
  }
  const StepResult result = training.step.run(batches(1), 1e-2);
  EXPECT_FALSE(result.is_skipped);
  EXPECT_THAT(name_overflow(result.gradients), ::testing::HasSubstr("in ln_f.bias"));
}

TEST(Step, RetryRunsTheSameBatchUntilTheScaleFits) {
  Training training("amp-fp16", kTooHigh, {.max_retries = 8});
  const std::vector<at::Tensor> before = training.snapshot();
  const StepResult result = training.step.run(batches(1), 1e-2);
  EXPECT_FALSE(result.is_skipped);
  EXPECT_GE(result.retries, 3);
  EXPECT_FALSE(are_equal(training.snapshot(), before));
}

TEST(Step, RetriesAreBounded) {
  Training training("amp-fp16", {.init_scale = 0x1p100}, {.max_retries = 2});
  const StepResult result = training.step.run(batches(1), 1e-2);
  EXPECT_TRUE(result.is_skipped);
  EXPECT_EQ(result.retries, 2);
}

TEST(Step, PlantedInfIsSkippedAndTrainingGoesOn) {
  Training training("amp-fp16", {.init_scale = 1024.0});
  training.step.run(batches(1), 1e-2);
  const at::Tensor bias = training.model->named_parameters()["ln_f.bias"];
  float kept;
  {
    at::NoGradGuard no_grad;
    kept = bias[3].item<float>();
    bias[3].fill_(std::numeric_limits<float>::infinity());
  }
  const StepResult planted = training.step.run(batches(1), 1e-2);
  EXPECT_TRUE(planted.is_skipped);
  EXPECT_EQ(planted.skip_cause, SkipCause::kUnexplained);
  at::NoGradGuard no_grad;
  bias[3].fill_(kept);
  at::AutoGradMode with_grad(true);
  EXPECT_FALSE(training.step.run(batches(1), 1e-2).is_skipped);
}

// Large enough that every kernel takes several threads. Products may add up in another order then,
// and in bf16 another order is another rounding now and then: losses, means over 512 tokens, agree
// as closely as the type does.
TEST(Step, IsTheSameOnOneTwoAndFiveThreads) {
  const models::ModelConfig config{
      .layers = 2, .heads = 4, .width = 128, .context = 128, .vocab_size = 512};
  const at::Tensor windows = at::arange(4 * 129).mul(7).remainder(512).view({4, 129});
  const Batch batch = {windows.narrow(1, 0, 128).contiguous(),
                       windows.narrow(1, 1, 128).contiguous()};
  const int before = at::get_num_threads();
  for (const char* precision : {"fp32", "amp-bf16", "lean", "amp-fp16"}) {
    const PrecisionMode& mode = precision_mode(precision);
    std::vector<double> losses;
    for (const int threads : {1, 2, 5}) {
      at::set_num_threads(threads);
      Training training(precision, {.init_scale = 1024.0, .enabled = mode.scales_loss}, {}, config);
      for (int i = 0; i < 3; ++i) losses.push_back(training.step.run({batch}, 1e-4).loss);
    }
    at::set_num_threads(before);
    EXPECT_LT(losses[2], losses[0]) << "it learns";
    const double tolerance = float_format(mode.compute()).epsilon;
    for (size_t i = 3; i < losses.size(); ++i)
      EXPECT_NEAR(losses[i], losses[i % 3], tolerance * losses[i % 3]) << precision;
  }
}

TEST(Step, AccumulationEqualsOneBatchOfTheSameTokens) {
  Training together("fp32", {.enabled = false}), apart("fp32", {.enabled = false});
  const std::vector<Batch> two = batches(2);
  const Batch joined = {at::cat({two[0].tokens, two[1].tokens}),
                        at::cat({two[0].targets, two[1].targets})};
  const StepResult a = together.step.run({joined}, 1e-2), b = apart.step.run(two, 1e-2);
  // The same sum in another order: a few units in the last place of fp32.
  EXPECT_NEAR(a.loss, b.loss, 8 * 0x1p-24 * a.loss);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 64 * 0x1p-24 * a.grad_norm);
}

// All that a half changes is exponents: those of gradients, and of their scales in FP8.
TEST(Step, InFp8ABatchGivenTwiceGivesItsOwnGradientsBitForBit) {
  for (const bool is_delayed : {false, true}) {
    Training once("fp8", {.enabled = false}), twice("fp8", {.enabled = false});
    for (Training* training : {&once, &twice})
      training->model->set_fp8(kernels::Fp8Scaling{.is_delayed = is_delayed});
    const Batch batch = batches(1).front();
    const auto backward = [](const at::Tensor& part) { part.backward(); };
    const at::Tensor loss = forward_backward(once.model, once.mode, {batch}, backward);
    const at::Tensor mean = forward_backward(twice.model, twice.mode, {batch, batch}, backward);
    EXPECT_EQ(mean.item<double>(), loss.item<double>());
    for (const auto& item : once.model->named_parameters())
      EXPECT_TRUE(
          at::equal(twice.model->named_parameters()[item.key()].grad(), item.value().grad()))
          << item.key();
  }
}

class ReleasedStep : public ::testing::TestWithParam<std::tuple<const char*, models::Recompute>> {};

TEST_P(ReleasedStep, IsTheUsualOneBitForBit) {
  const auto [precision, recompute] = GetParam();
  const GradScalerOptions unscaled{.enabled = false};
  Training usual(precision, unscaled, {.clip = 0.0}),
      released(precision, unscaled, {.clip = 0.0, .releases_gradients = true});
  for (Training* training : {&usual, &released})
    training->model->set_recompute(recompute, mezzo::checkpoint);
  for (int i = 0; i < 5; ++i) {
    const StepResult want = usual.step.run(batches(1), 1e-2),
                     got = released.step.run(batches(1), 1e-2);
    EXPECT_EQ(got.loss, want.loss);
    // Each parameter's norm is rounded to fp32, and then their sum.
    EXPECT_NEAR(got.grad_norm, want.grad_norm, 2 * 0x1p-24 * want.grad_norm);
    EXPECT_TRUE(got.gradients.empty());
  }
  EXPECT_TRUE(are_equal(released.snapshot(), usual.snapshot()));
  for (const at::Tensor& parameter : released.model->parameters())
    EXPECT_FALSE(parameter.grad().defined());
}

INSTANTIATE_TEST_SUITE_P(All, ReleasedStep,
                         ::testing::Combine(::testing::Values("amp-bf16", "lean", "fp8"),
                                            ::testing::Values(models::Recompute::kNone,
                                                              models::Recompute::kElementwise,
                                                              models::Recompute::kLayer)),
                         [](const auto& param) {
                           std::string mode = std::get<0>(param.param);
                           std::replace(mode.begin(), mode.end(), '-', '_');
                           return mode + std::to_string(static_cast<int>(std::get<1>(param.param)));
                         });

TEST(Step, NamesTheReleasedGradientsThatAreNotFinite) {
  Training training("amp-bf16", {.enabled = false}, {.clip = 0.0, .releases_gradients = true});
  {
    const at::NoGradGuard no_grad;
    training.model->named_parameters()["ln_f.bias"][3].fill_(
        std::numeric_limits<float>::infinity());
  }
  const StepResult result = training.step.run(batches(1), 1e-2);
  ASSERT_EQ(result.gradients.size(), training.model->named_parameters().size());
  EXPECT_THAT(name_overflow(result.gradients), ::testing::HasSubstr("in ln_f.bias"));
  EXPECT_EQ(overflow_origin(result.gradients, std::isfinite(result.loss)),
            "in the loss or the forward pass");
}

TEST(Step, RefusesToReleaseGradientsWhereThatCannotBe) {
  const GradScalerOptions unscaled{.enabled = false};
  EXPECT_THROW_WITH(Training("fp32", unscaled, {.clip = 0.0, .releases_gradients = true}),
                    "split weights or 8-bit moments, but is fp32");
  EXPECT_THROW_WITH(Training("lean", unscaled, {.clip = 1.0, .releases_gradients = true}),
                    "clipping must be off");
  EXPECT_THROW_WITH(Training("lean", {}, {.clip = 0.0, .releases_gradients = true}),
                    "the loss must not be scaled");
  Training training("lean", unscaled, {.clip = 0.0, .releases_gradients = true});
  EXPECT_THROW_WITH(training.step.run(batches(2), 1e-2), "a step must be of one backward pass");
}

TEST(Step, ClipsAfterUnscaling) {
  // Of scaled gradients the norm would be 1024 times as large. In bf16, whose range is fp32's, a
  // power of two as scale changes no rounding.
  Training scaled("amp-bf16", {.init_scale = 1024.0}, {.clip = 0.1}),
      plain("amp-bf16", {.init_scale = 1.0}, {.clip = 0.1});
  EXPECT_EQ(scaled.step.run(batches(1), 1e-2).grad_norm,
            plain.step.run(batches(1), 1e-2).grad_norm);
}

}  // namespace
}  // namespace mezzo::train
