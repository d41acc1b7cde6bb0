// The ops that end in an FP8 linear layer, against their parts one by one.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/memory.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr double kEps = 1e-5;
constexpr int64_t kRows = 48, kC = 64, kN = 80;

const Random random(6);

/// Leaves and what comes back to them, in a residual stream of fp32 beside weights in bf16.
struct Layer {
  explicit Layer(at::Device device) : device_(device) {}

  at::Device device_;
  at::Tensor x = leaf({kRows, kC}), branch = leaf({kRows, kC}, at::kBFloat16);
  at::Tensor norm_weight = leaf({kC}), norm_bias = leaf({kC});
  at::Tensor weight = leaf({kN, kC}, at::kBFloat16), bias = leaf({kN});
  at::Tensor grad_sum = drawn({kRows, kC}), grad_y = drawn({kRows, kN}, at::kBFloat16);

  std::vector<at::Tensor> leaves() const {
    return {x, branch, norm_weight, norm_bias, weight, bias};
  }

  std::vector<at::Tensor> norm_step(const std::shared_ptr<Fp8Recipe>& recipe, bool recompute) {
    for (at::Tensor leaf : leaves()) leaf.mutable_grad().reset();
    const auto [sum, y] = residual_norm_fp8_linear(x, branch, norm_weight, norm_bias, weight, bias,
                                                   kEps, recompute, recipe);
    (sum * grad_sum).sum().add((y * grad_y).sum()).backward();
    std::vector<at::Tensor> results = {sum.detach(), y.detach()};
    for (const at::Tensor& leaf : leaves()) results.push_back(leaf.grad());
    return results;
  }

  std::vector<at::Tensor> gelu_step(const std::shared_ptr<Fp8Recipe>& recipe, bool recompute) {
    for (at::Tensor leaf : leaves()) leaf.mutable_grad().reset();
    const at::Tensor y = gelu_fp8_linear(branch, weight, bias, recompute, recipe);
    y.backward(grad_y);
    return {y.detach(), branch.grad(), weight.grad(), bias.grad()};
  }

 private:
  at::Tensor drawn(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) const {
    return random(sizes).to(device_, dtype);
  }
  at::Tensor leaf(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) const {
    return drawn(sizes, dtype).requires_grad_();
  }
};

/// Case: whether scaling is delayed.
class Fp8Fused : public mezzo::testing::OnDevice<bool> {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    if (IsSkipped()) return;
    if (const std::string refusal = fp8_refusal(device); !refusal.empty()) GTEST_SKIP() << refusal;
  }
  static std::shared_ptr<Fp8Recipe> recipe() {
    return std::make_shared<Fp8Recipe>(Fp8Scaling{.is_delayed = GetParam(), .history = 4});
  }
};

TEST_P(Fp8Fused, NormIsResidualNormBeforeAnFp8Linear) {
  Layer layer(device);
  const std::vector<at::Tensor> got = layer.norm_step(recipe(), /*recompute=*/false);
  const ResidualNorm norm =
      residual_norm(layer.x.detach(), layer.branch.detach(), layer.norm_weight.detach(),
                    layer.norm_bias.detach(), kEps, at::kBFloat16);
  const at::Tensor normed = norm.normed.requires_grad_();
  for (at::Tensor leaf : layer.leaves()) leaf.mutable_grad().reset();
  const at::Tensor y = fp8_linear(normed, layer.weight, layer.bias, recipe());
  y.backward(layer.grad_y);
  const ResidualNormGrads grads =
      residual_norm_backward(normed.grad(), layer.grad_sum, norm.sum, norm.mean, norm.rstd,
                             layer.norm_weight, layer.norm_bias, {.branch = true});
  const std::vector<at::Tensor> want = {
      norm.sum,   y.detach(),          grads.x,          grads.branch, grads.weight,
      grads.bias, layer.weight.grad(), layer.bias.grad()};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_BIT_EQUAL(here(got[i]), here(want[i])) << i;
}

TEST_P(Fp8Fused, WhatIsMadeAgainChangesNoBit) {
  Layer layer(device);
  const auto kept = recipe(), again = recipe(), kept_gelu = recipe(), again_gelu = recipe();
  for (int step = 0; step < 3; ++step) {
    const auto a = layer.norm_step(kept, false), b = layer.norm_step(again, true);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_BIT_EQUAL(here(b[i]), here(a[i])) << i;
    const auto c = layer.gelu_step(kept_gelu, false), d = layer.gelu_step(again_gelu, true);
    for (size_t i = 0; i < c.size(); ++i) EXPECT_BIT_EQUAL(here(d[i]), here(c[i])) << i;
    at::NoGradGuard no_grad;
    layer.x.mul_(3.0);  // the next step's scales are others
    layer.branch.mul_(3.0);
  }
}

INSTANTIATE_TEST_SUITE_P(On, Fp8Fused, mezzo::testing::on_devices(::testing::Bool()),
                         mezzo::testing::device_and([](const auto& scaling) {
                           return scaling.param ? "DelayedScaling" : "CurrentScaling";
                         }));

TEST(Fp8FusedMemory, WhatIsMadeAgainIsNotKept) {
  const TensorMemoryMeter meter;
  const Layer layer(at::kCPU);
  const auto kept_by = [&](const auto& forward) {
    const int64_t before = meter.current_bytes();
    const auto result = forward();
    return meter.current_bytes() - before;
  };
  const auto recipe = std::make_shared<Fp8Recipe>(Fp8Scaling{});
  const auto norm = [&](bool recompute) {
    return kept_by([&] {
      return residual_norm_fp8_linear(layer.x, layer.branch, layer.norm_weight, layer.norm_bias,
                                      layer.weight, layer.bias, kEps, recompute, recipe);
    });
  };
  const auto gelu = [&](bool recompute) {
    return kept_by(
        [&] { return gelu_fp8_linear(layer.branch, layer.weight, layer.bias, recompute, recipe); });
  };
  EXPECT_EQ(norm(false) - norm(true), kRows * kC);  // the FP8 copy, a byte a number
  EXPECT_EQ(gelu(false) - gelu(true), kRows * kC);
}

TEST(Fp8FusedBackward, HasNoSecondDerivative) {
  const Layer layer(at::kCPU);
  const auto [sum, y] = residual_norm_fp8_linear(
      layer.x, layer.branch, layer.norm_weight, layer.norm_bias, layer.weight, layer.bias, kEps,
      /*recompute=*/true, std::make_shared<Fp8Recipe>(Fp8Scaling{}));
  EXPECT_THROW_WITH(torch::autograd::grad({sum.sum()}, {layer.x}, {}, true, /*create_graph=*/true),
                    "cannot be differentiated again");
}

}  // namespace
}  // namespace mezzo::kernels
