#include "mezzo/train/device_step.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#ifndef MEZZO_EMULATED_GPU
#include <c10/cuda/CUDAFunctions.h>
#endif

#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/float_format.h"
#include "mezzo/models/language_model.h"
#include "mezzo/models/make_model.h"
#include "mezzo/train/device.h"
#include "mezzo/train/step.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

// Without a GPU the CPU stands for one (tests/emulated_gpu/): what a step computes and when it is
// recorded are tested everywhere, streams and graphs on a GPU.
#ifdef MEZZO_EMULATED_GPU
bool has_gpu() { return true; }
at::Device gpu() { return at::kCPU; }
#else
bool has_gpu() { return at::hasCUDA(); }
at::Device gpu() { return ready_device("cuda"); }
#endif

using models::Family;

constexpr int64_t kVocabulary = 128, kLength = 32;
constexpr double kLr = 4e-3;

/// Precision and family.
using ModeAndFamily = std::tuple<std::string, Family>;

std::string name_of(const ::testing::TestParamInfo<ModeAndFamily>& test) {
  const auto& [precision, family] = test.param;
  std::string name = precision + (family == Family::kLlama ? "_llama" : "");
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// A Llama has heads that share keys, and a head of its own.
models::ModelConfig config(Family family, int64_t layers) {
  models::ModelConfig shape{
      .layers = layers, .heads = 4, .width = 64, .context = kLength, .vocab_size = kVocabulary};
  if (family == Family::kGPT2) return shape;
  shape.family = family;
  shape.bias = false;
  shape.kv_heads = 2;
  shape.mlp_width = 176;
  shape.tied = false;
  return shape;
}

/// The n-th step's batches, on the CPU: text of a kind that can be learned, each token the last
/// one's successor.
std::vector<Batch> batches(int64_t n, int64_t count, int64_t rows = 4) {
  std::vector<Batch> result;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor start = at::arange(rows).view({rows, 1}) * 37 + n * 11 + i * 5;
    const at::Tensor windows = (start + at::arange(kLength + 1)).remainder(kVocabulary);
    result.push_back(
        {windows.narrow(1, 0, kLength).contiguous(), windows.narrow(1, 1, kLength).contiguous()});
  }
  return result;
}

std::vector<Batch> on(at::Device device, std::vector<Batch> batches) {
  for (Batch& batch : batches) batch = {batch.tokens.to(device), batch.targets.to(device)};
  return batches;
}

struct Training {
  Training(const ModeAndFamily& kind, at::Device device, GradScalerOptions scaling = {},
           bool accumulates = false)
      : mode(precision_mode(std::get<0>(kind))),
        model(on_device(device, mode, std::get<1>(kind))),
        optimizer(model, mode, optim::AdamWOptions(kLr).weight_decay(0.1), accumulates),
        scaler(device, with_default(scaling, mode)) {}

  static models::LanguageModel on_device(at::Device device, const PrecisionMode& mode,
                                         Family family) {
    models::LanguageModel model =
        models::make_language_model(config(family, mode.fp8_products ? 3 : 2), 7);
    model->to(device, mode.weights);
    if (mode.fp8_products) model->set_fp8(kernels::Fp8Scaling{.is_delayed = true});
    return model;
  }
  static GradScalerOptions with_default(GradScalerOptions options, const PrecisionMode& mode) {
    options.enabled = mode.scales_loss;
    options.error_at_min_scale = false;
    return options;
  }

  const PrecisionMode& mode;
  models::LanguageModel model;
  RunOptimizer optimizer;
  GradScaler scaler;
};

std::vector<StepResult> losses_on_gpu(Training& training, int64_t steps, int64_t accumulate) {
  DeviceStep step(training.model, training.optimizer, training.scaler, training.mode, 1.0);
  std::vector<StepResult> results;
  for (int64_t n = 0; n < steps; ++n) {
    step.run(batches(n, accumulate), kLr);
    if (step.pending() > 1) results.push_back(step.take());
  }
  while (step.pending() > 0) results.push_back(step.take());
  EXPECT_EQ(step.refusal(), "");
  EXPECT_TRUE(step.is_recorded());
  return results;
}

class DeviceStepOnGpu : public ::testing::TestWithParam<ModeAndFamily> {
 protected:
  /// One rounding of a loss in the mode's dtype, that of its products.
  static double rounding(double loss) {
    const PrecisionMode& mode = precision_mode(std::get<0>(GetParam()));
    const FloatFormat& format = mode.fp8_products ? kFp8E4M3 : float_format(mode.compute());
    return format.epsilon * loss;
  }
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU here";
    device = gpu();
  }
  at::Device device = at::kCPU;
};

// The same arithmetic op by op on the host's word, and as one graph: what differs is where the
// clipping factor is multiplied in, and the last bits of the betas' powers.
TEST_P(DeviceStepOnGpu, GivesTheLossesOfStepsThatAreRunOpByOp) {
  constexpr int64_t kSteps = 6;
  Training graphed(GetParam(), device), plain(GetParam(), device);
  const auto got = losses_on_gpu(graphed, kSteps, 1);
  Step step(plain.model, plain.optimizer, plain.scaler, plain.mode, {.clip = 1.0});
  // A rounding in the dtype that products have, at most doubled by each step.
  for (int64_t n = 0; n < kSteps; ++n) {
    const StepResult want = step.run(on(device, batches(n, 1)), kLr);
    const auto& result = got[static_cast<size_t>(n)];
    EXPECT_NEAR(result.loss, want.loss, std::ldexp(rounding(want.loss), static_cast<int>(n))) << n;
    EXPECT_EQ(result.is_skipped, want.is_skipped) << n;
    EXPECT_EQ(result.scale, want.scale) << n;
  }
}

TEST_P(DeviceStepOnGpu, Learns) {
  Training training(GetParam(), device);
  const auto results = losses_on_gpu(training, 24, 1);
  double first = 0.0;
  for (const auto& result : results) {
    if (!result.is_skipped && first == 0.0) first = result.loss;
  }
  EXPECT_LT(results.back().loss, 0.8 * first);
}

TEST_P(DeviceStepOnGpu, TakesSeveralBatchesAStep) {
  Training one(GetParam(), device), two(GetParam(), device, {}, /*accumulates=*/true);
  DeviceStep whole(one.model, one.optimizer, one.scaler, one.mode, 1.0);
  DeviceStep parts(two.model, two.optimizer, two.scaler, two.mode, 1.0);
  const std::vector<Batch> halves = batches(0, 2);
  whole.run({{at::cat({halves[0].tokens, halves[1].tokens}),
              at::cat({halves[0].targets, halves[1].targets})}},
            kLr);
  parts.run(halves, kLr);
  const double loss = whole.take().loss;
  EXPECT_NEAR(parts.take().loss, loss, 2 * rounding(loss));
}

TEST_P(DeviceStepOnGpu, RecordsLayersThatAreComputedAgain) {
  Training kept(GetParam(), device), computed_again(GetParam(), device);
  computed_again.model->set_recompute(models::Recompute::kLayer, mezzo::checkpoint);
  const auto want = losses_on_gpu(kept, 6, 1), got = losses_on_gpu(computed_again, 6, 1);
  for (size_t n = 0; n < want.size(); ++n)
    EXPECT_NEAR(got[n].loss, want[n].loss, std::ldexp(rounding(want[n].loss), static_cast<int>(n)));
}

#ifndef MEZZO_EMULATED_GPU
// libtorch throws at every wait of the host for the device.
TEST_P(DeviceStepOnGpu, NeverWaitsForTheDevice) {
  struct NoWaiting {
    NoWaiting() {
      c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
    }
    ~NoWaiting() {
      c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
    }
  };
  Training training(GetParam(), device);
  DeviceStep step(training.model, training.optimizer, training.scaler, training.mode, 1.0);
  const std::vector<Batch> given = on(device, batches(0, 1));
  step.run(given, kLr);  // the first one makes the optimizer's state
  {
    const NoWaiting no_waiting;
    EXPECT_ANY_THROW(given[0].tokens.max().item<int64_t>());
    for (int64_t n = 1; n < StepGraph::kWarmUpSteps; ++n) EXPECT_NO_THROW(step.run(given, kLr));
  }
  step.run(given, kLr);  // is recorded, for which the device is waited for once
  ASSERT_TRUE(step.is_recorded());
  const NoWaiting no_waiting;
  for (int n = 0; n < 3; ++n) EXPECT_NO_THROW(step.run(given, kLr));
}
#endif

INSTANTIATE_TEST_SUITE_P(Modes, DeviceStepOnGpu,
                         ::testing::Values(ModeAndFamily("fp32", Family::kGPT2),
                                           ModeAndFamily("amp-bf16", Family::kGPT2),
                                           ModeAndFamily("amp-fp16", Family::kGPT2),
                                           ModeAndFamily("lean", Family::kGPT2),
                                           ModeAndFamily("fp8", Family::kGPT2),
                                           ModeAndFamily("pure-bf16", Family::kGPT2),
                                           ModeAndFamily("fp32", Family::kLlama),
                                           ModeAndFamily("amp-bf16", Family::kLlama),
                                           ModeAndFamily("lean", Family::kLlama),
                                           ModeAndFamily("fp8", Family::kLlama)),
                         name_of);

class DeviceStepScaleOnGpu : public ::testing::TestWithParam<ModeAndFamily> {};

TEST_P(DeviceStepScaleOnGpu, AnOverflowSkipsTheStepAndHalvesTheScaleInsideTheGraph) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  const at::Device device = gpu();
  // A logit's gradient is near a 128th of the scale, beyond fp16.
  Training training(GetParam(), device, {.init_scale = 0x1p24, .max_scale = 0x1p24});
  const auto results = losses_on_gpu(training, 14, 1);
  EXPECT_TRUE(results.front().is_skipped);
  EXPECT_EQ(results[1].scale, 0x1p23);
  EXPECT_FALSE(results.back().is_skipped);
  EXPECT_TRUE(results.back().gradients.empty());
  for (size_t n = 1; n < results.size(); ++n) {
    EXPECT_EQ(results[n].scale, results[n - 1].scale * (results[n - 1].is_skipped ? 0.5 : 1.0));
    // Read when the step after it is enqueued: the scaler is one further.
    EXPECT_EQ(results[n - 1].next_scale, results[n].scale) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceStepScaleOnGpu,
                         ::testing::Values(ModeAndFamily("amp-fp16", Family::kGPT2),
                                           ModeAndFamily("amp-fp16", Family::kLlama)),
                         name_of);

/// Of a gradient: how many NaNs, Infs and numbers.
using Counted = std::tuple<std::string, int64_t, int64_t, int64_t>;

std::vector<Counted> counted(const StepResult& result) {
  std::vector<Counted> all;
  for (const auto& [name, facts] : result.gradients)
    all.emplace_back(name, facts.nan, facts.positive_inf + facts.negative_inf, facts.numel);
  return all;
}

class DeviceStepFactsOnGpu : public ::testing::TestWithParam<ModeAndFamily> {};

// The gradients are gone, and the next step is enqueued, when the host hears of them.
TEST_P(DeviceStepFactsOnGpu, AFailedStepSaysOfEachGradientWhatItHeld) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  Training graphed(GetParam(), gpu(), {.init_scale = 1.0}),
      plain(GetParam(), gpu(), {.init_scale = 1.0});
  DeviceStep step(graphed.model, graphed.optimizer, graphed.scaler, graphed.mode, 1.0);
  const int64_t good = StepGraph::kWarmUpSteps + 1;
  for (int64_t n = 0; n < good; ++n) step.run(batches(n, 1), kLr);
  EXPECT_TRUE(step.is_recorded());
  const auto poison = [](Training& training) {
    const at::NoGradGuard no_grad;
    const bool is_gpt2 = std::get<1>(GetParam()) == Family::kGPT2;
    const char* name = is_gpt2 ? "h.1.ln_1.bias" : "layers.1.input_layernorm.weight";
    training.model->named_parameters()[name][3].fill_(INFINITY);
  };
  poison(graphed);
  for (int64_t n = good; n < good + 2; ++n) step.run(batches(n, 1), kLr);
  for (int64_t n = 0; n < good; ++n) EXPECT_TRUE(step.take().gradients.empty()) << n;

  poison(plain);
  Step by_host(plain.model, plain.optimizer, plain.scaler, plain.mode, {.clip = 1.0});
  const StepResult want = by_host.run(on(gpu(), batches(good, 1)), kLr), got = step.take();
  EXPECT_FALSE(std::isfinite(got.grad_norm));
  EXPECT_EQ(counted(got), counted(want));
  EXPECT_EQ(got.gradients.size(), graphed.model->parameters().size());
}

INSTANTIATE_TEST_SUITE_P(Modes, DeviceStepFactsOnGpu,
                         ::testing::Combine(::testing::Values("amp-bf16", "amp-fp16"),
                                            ::testing::Values(Family::kGPT2, Family::kLlama)),
                         name_of);

TEST(DeviceStepShapeOnGpu, AnotherShapeIsRecordedAnew) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  Training training({"amp-bf16", Family::kGPT2}, gpu());
  DeviceStep step(training.model, training.optimizer, training.scaler, training.mode, 1.0);
  for (const int64_t rows : {4, 2, 4}) {
    for (int64_t n = 0; n <= StepGraph::kWarmUpSteps; ++n) {
      step.run(batches(n, 1, rows), kLr);
      EXPECT_TRUE(std::isfinite(step.take().loss));
    }
    EXPECT_TRUE(step.is_recorded()) << rows;
  }
}

TEST(DeviceStepRateOnGpu, TheLearningRateOfEachStepIsTheOneThatWasGiven) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  Training training({"amp-bf16", Family::kGPT2}, gpu());
  DeviceStep step(training.model, training.optimizer, training.scaler, training.mode, 1.0);
  for (int64_t n = 0; n <= StepGraph::kWarmUpSteps; ++n) step.run(batches(n, 1), kLr);
  ASSERT_TRUE(step.is_recorded());
  while (step.pending() > 0) step.take();
  const at::Tensor weight = training.model->named_parameters()["ln_f.weight"],
                   before = weight.detach().clone();
  step.run(batches(0, 1), 0.0);
  step.take();
  EXPECT_TRUE(at::equal(weight, before));
  step.run(batches(0, 1), kLr);
  step.take();
  EXPECT_FALSE(at::equal(weight, before));
}

}  // namespace
}  // namespace mezzo::train
