#include "mezzo/amp/retry.h"

#include <vector>

#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include "mezzo/base/check.h"
#include "tests/amp/fused_sgd.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

// A loss whose fp16 gradient, 8 times the scale, fits from a scale of 2^12 (32768) downwards.
struct Problem {
  at::Tensor weight = at::ones({}).requires_grad_();
  int64_t forwards = 0;
  at::Tensor loss() {
    ++forwards;
    return (weight.to(at::kHalf) * 8).to(at::kFloat);
  }
};

template <class Optimizer>
void expect_retries_until_it_fits(int64_t hysteresis = 1) {
  Problem problem;
  Optimizer optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.init_scale = 0x1p15, .hysteresis = hysteresis});
  const RetryResult result = step_with_retry(
      scaler, optimizer, [&] { return problem.loss(); }, /*max_retries=*/8);
  EXPECT_TRUE(result.has_stepped);
  EXPECT_EQ(result.retries, 3);
  EXPECT_EQ(problem.forwards, 4);
  EXPECT_EQ(scaler.get_scale(), 0x1p12);
  EXPECT_EQ(problem.weight.item<float>(), 0.0f);  // 1 - 0.125 x 8: one step, by its own gradient
  EXPECT_EQ(result.loss.item<float>(), 8.0f);
  EXPECT_FALSE(result.loss.requires_grad());
}

TEST(StepWithRetry, RunsTheSameBatchUntilTheScaleFits) {
  expect_retries_until_it_fits<torch::optim::SGD>();
  expect_retries_until_it_fits<testing::FusedSgd>();
}

TEST(StepWithRetry, GivesUpAfterMaxRetriesAndLeavesNoGradient) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.init_scale = 0x1p15});
  const RetryResult result = step_with_retry(
      scaler, optimizer, [&] { return problem.loss(); }, /*max_retries=*/1);
  EXPECT_FALSE(result.has_stepped);
  EXPECT_EQ(result.retries, 1);
  EXPECT_EQ(problem.weight.item<float>(), 1.0f);
  EXPECT_FALSE(problem.weight.grad().defined());
  EXPECT_EQ(scaler.counters().skips, 2);
}

TEST(StepWithRetry, ClipsBetweenUnscaleAndStep) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.init_scale = 0x1p13});
  std::vector<float> seen;
  const auto clip = [&] {
    seen.push_back(problem.weight.grad().item<float>());
    problem.weight.mutable_grad().clamp_(-1.0, 1.0);
  };
  const RetryResult result = step_with_retry(
      scaler, optimizer, [&] { return problem.loss(); }, 8, clip);
  EXPECT_TRUE(result.has_stepped);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[1], 8.0f);  // unscaled
  EXPECT_EQ(problem.weight.item<float>(), 1.0f - 0.125f);
}

TEST(StepWithRetry, DoesNotTryAStaticScaleTwice) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.init_scale = 0x1p15, .is_dynamic = false});
  EXPECT_FALSE(step_with_retry(
                   scaler, optimizer, [&] { return problem.loss(); }, 8)
                   .has_stepped);
  EXPECT_EQ(problem.forwards, 1);
}

TEST(StepWithRetry, NeverTriesTheSameScaleTwiceWhateverTheHysteresis) {
  for (const int64_t hysteresis : {2, 100})
    expect_retries_until_it_fits<torch::optim::SGD>(hysteresis);
}

TEST(StepWithRetry, LeavesTheScaleOfTheLastAttemptToTheHysteresis) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.init_scale = 0x1p15, .hysteresis = 2});
  step_with_retry(
      scaler, optimizer, [&] { return problem.loss(); }, /*max_retries=*/0);
  EXPECT_EQ(scaler.get_scale(), 0x1p15);
}

TEST(StepWithRetry, DoesNotTryAScaleAtItsFloorTwice) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU,
                    {.init_scale = 0x1p14, .min_scale = 0x1p13, .error_at_min_scale = false});
  const RetryResult result = step_with_retry(
      scaler, optimizer, [&] { return problem.loss(); }, /*max_retries=*/8);
  EXPECT_FALSE(result.has_stepped);
  EXPECT_EQ(result.retries, 1);
  EXPECT_EQ(problem.forwards, 2);
}

TEST(StepWithRetry, StepsOnceWithADisabledScaler) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU, {.enabled = false});
  EXPECT_TRUE(step_with_retry(
                  scaler, optimizer, [&] { return problem.loss(); }, 8)
                  .has_stepped);
  EXPECT_EQ(problem.weight.item<float>(), 0.0f);
}

TEST(StepWithRetry, RefusesANegativeNumberOfRetries) {
  Problem problem;
  torch::optim::SGD optimizer({problem.weight}, 0.125);
  GradScaler scaler(at::kCPU);
  EXPECT_THROW_WITH(step_with_retry(
                        scaler, optimizer, [&] { return problem.loss(); }, -1),
                    "max_retries must be >= 0, but is -1");
}

}  // namespace
}  // namespace mezzo
