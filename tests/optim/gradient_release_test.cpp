#include "mezzo/optim/gradient_release.h"

#include <optional>

#include <ATen/ATen.h>

#include "mezzo/base/memory.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

constexpr int64_t kLayers = 8, kWidth = 128;
constexpr int64_t kGradBytes = kWidth * kWidth * 4;

std::vector<at::Tensor> layers() {
  std::vector<at::Tensor> weights;
  for (int64_t i = 0; i < kLayers; ++i) {
    auto generator = at::detail::createCPUGenerator(i);
    weights.push_back((at::randn({kWidth, kWidth}, generator, at::dtype(at::kFloat)) / 11.0)
                          .set_requires_grad(true));
  }
  return weights;
}

at::Tensor loss_of(const std::vector<at::Tensor>& weights) {
  at::Tensor x = at::ones({1, kWidth});
  for (const at::Tensor& weight : weights) x = at::mm(x, weight.to(at::kFloat)).tanh();
  return x.square().sum();
}

class Release : public ::testing::TestWithParam<bool> {
 protected:
  CompactAdamWOptions options = CompactAdamWOptions(0.01).moment_bits(8).split_weights(GetParam());
};

TEST_P(Release, StepsToTheSameBits) {
  const auto usual = layers(), released = layers();
  CompactAdamW usual_optimizer(usual, options), optimizer(released, options);
  const GradientRelease release(optimizer, {});
  for (int step = 0; step < 5; ++step) {
    usual_optimizer.zero_grad();
    loss_of(usual).backward();
    usual_optimizer.step();
    loss_of(released).backward();
  }
  for (int64_t i = 0; i < kLayers; ++i) {
    EXPECT_BIT_EQUAL(released[i], usual[i]);
    EXPECT_FALSE(released[i].grad().defined());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Release, ::testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "Split" : "Whole");
});

TEST(GradientRelease, TellsOfEachGradientBeforeItsParameterSteps) {
  const auto weights = layers();
  std::vector<at::Tensor> before, told;
  for (const at::Tensor& weight : weights) before.push_back(weight.detach().clone());
  CompactAdamW optimizer(weights);
  const GradientRelease release(optimizer, {}, [&](const at::Tensor& param) {
    EXPECT_BIT_EQUAL(param, before[static_cast<size_t>(kLayers) - 1 - told.size()]);
    told.push_back(param.grad());
  });
  loss_of(weights).backward();
  ASSERT_EQ(told.size(), kLayers) << "from the last to the first";
  for (const at::Tensor& grad : told) EXPECT_EQ(grad.sizes(), weights[0].sizes());
}

TEST(GradientRelease, NeverHoldsMoreThanAFewGradients) {
  const auto peak_of_backward = [](bool releases) {
    TensorMemoryMeter meter;
    const auto weights = layers();
    CompactAdamW optimizer(weights);
    std::optional<GradientRelease> release;
    if (releases) release.emplace(optimizer, GradientUse{});
    const auto loss = loss_of(weights);
    const int64_t before = meter.current_bytes();
    meter.reset_peak();
    loss.backward();
    return meter.peak_bytes() - before;
  };
  // The backward pass frees its activations, far less than a gradient, on the way.
  EXPECT_GT(peak_of_backward(false), (kLayers - 1) * kGradBytes);
  EXPECT_LE(peak_of_backward(true), 2 * kGradBytes);
}

TEST(GradientRelease, EndsWithTheObject) {
  const auto weights = layers();
  CompactAdamW optimizer(weights);
  { const GradientRelease release(optimizer, {}); }
  loss_of(weights).backward();
  EXPECT_TRUE(weights[0].grad().defined());
}

TEST(GradientRelease, IsRefusedWithTheReason) {
  CompactAdamW optimizer(layers());
  EXPECT_THROW(GradientRelease(optimizer, {.clips = true}), UsageError);
  EXPECT_THROW_WITH(check_gradient_release({.clips = true}), "clipping must be off, but is on");
  EXPECT_THROW_WITH(check_gradient_release({.accumulate = 4}),
                    "a step must be of one backward pass, but is of 4");
  EXPECT_THROW_WITH(check_gradient_release({.is_loss_scaled = true}), "must not be scaled");
  EXPECT_NO_THROW(check_gradient_release({}));
  const GradientRelease release(optimizer, {});
  EXPECT_THROW_WITH(GradientRelease(optimizer, {}), "must have no hook for its gradient yet");
}

}  // namespace
}  // namespace mezzo::optim
