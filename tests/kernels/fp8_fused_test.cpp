// The ops that end in an FP8 linear layer, against their parts one by one.
#include <array>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/memory.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/swiglu/swiglu.h"
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
  at::Tensor gate_up = leaf({kRows, 2 * kC}, at::kBFloat16);
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

  std::vector<at::Tensor> rms_norm_step(const std::shared_ptr<Fp8Recipe>& recipe, bool recompute) {
    for (at::Tensor leaf : leaves()) leaf.mutable_grad().reset();
    const auto [sum, y] =
        residual_rms_norm_fp8_linear(x, branch, norm_weight, weight, bias, kEps, recompute, recipe);
    (sum * grad_sum).sum().add((y * grad_y).sum()).backward();
    return {sum.detach(),       y.detach(),    x.grad(),   branch.grad(),
            norm_weight.grad(), weight.grad(), bias.grad()};
  }

  std::vector<at::Tensor> swiglu_step(const std::shared_ptr<Fp8Recipe>& recipe, bool recompute) {
    for (at::Tensor leaf : {gate_up, weight, bias}) leaf.mutable_grad().reset();
    const at::Tensor y = swiglu_fp8_linear(gate_up, weight, bias, recompute, recipe);
    y.backward(grad_y);
    return {y.detach(), gate_up.grad(), weight.grad(), bias.grad()};
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

/// What norm_step() and rms_norm_step() give, by residual_norm() and fp8_linear().
std::vector<at::Tensor> norm_by_parts(Layer& layer, const std::shared_ptr<Fp8Recipe>& recipe,
                                      NormKind kind) {
  const at::Tensor bias =
      kind == NormKind::kLayer ? layer.norm_bias.detach() : at::Tensor();  // RMSNorm has none
  const ResidualNorm norm =
      residual_norm(layer.x.detach(), layer.branch.detach(), layer.norm_weight.detach(), bias, kEps,
                    at::kBFloat16, kind);
  const at::Tensor normed = norm.normed.requires_grad_();
  for (at::Tensor leaf : layer.leaves()) leaf.mutable_grad().reset();
  const at::Tensor y = fp8_linear(normed, layer.weight, layer.bias, recipe);
  y.backward(layer.grad_y);
  const ResidualNormGrads grads =
      residual_norm_backward(normed.grad(), layer.grad_sum, norm.sum, norm.mean, norm.rstd,
                             layer.norm_weight, bias, {.branch = true});
  std::vector<at::Tensor> results = {norm.sum, y.detach(), grads.x, grads.branch, grads.weight};
  if (bias.defined()) results.push_back(grads.bias);
  results.insert(results.end(), {layer.weight.grad(), layer.bias.grad()});
  return results;
}

TEST_P(Fp8Fused, EitherNormIsResidualNormBeforeAnFp8Linear) {
  Layer layer(device);
  const auto expect_same = [&](const auto& got, const auto& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_BIT_EQUAL(here(got[i]), here(want[i])) << i;
  };
  expect_same(layer.norm_step(recipe(), /*recompute=*/false),
              norm_by_parts(layer, recipe(), NormKind::kLayer));
  expect_same(layer.rms_norm_step(recipe(), /*recompute=*/false),
              norm_by_parts(layer, recipe(), NormKind::kRms));
}

TEST_P(Fp8Fused, SwigluIsItselfBeforeAnFp8Linear) {
  Layer layer(device);
  const std::vector<at::Tensor> got = layer.swiglu_step(recipe(), /*recompute=*/false);
  const at::Tensor active = swiglu(layer.gate_up.detach()).requires_grad_();
  for (at::Tensor leaf : layer.leaves()) leaf.mutable_grad().reset();
  const at::Tensor y = fp8_linear(active, layer.weight, layer.bias, recipe());
  y.backward(layer.grad_y);
  const std::vector<at::Tensor> want = {y.detach(),
                                        swiglu_backward(active.grad(), layer.gate_up.detach()),
                                        layer.weight.grad(), layer.bias.grad()};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_BIT_EQUAL(here(got[i]), here(want[i])) << i;
}

TEST_P(Fp8Fused, WhatIsMadeAgainChangesNoBit) {
  Layer layer(device);
  const std::array steps = {&Layer::norm_step, &Layer::rms_norm_step, &Layer::gelu_step,
                            &Layer::swiglu_step};
  std::vector<std::shared_ptr<Fp8Recipe>> kept, again;
  for (size_t i = 0; i < steps.size(); ++i) {
    kept.push_back(recipe());
    again.push_back(recipe());
  }
  for (int step = 0; step < 3; ++step) {
    for (size_t i = 0; i < steps.size(); ++i) {
      const auto a = (layer.*steps[i])(kept[i], false), b = (layer.*steps[i])(again[i], true);
      for (size_t j = 0; j < a.size(); ++j) EXPECT_BIT_EQUAL(here(b[j]), here(a[j])) << i << j;
    }
    at::NoGradGuard no_grad;
    layer.gate_up.mul_(3.0);
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
  const auto gate = [&](bool recompute) {
    return kept_by([&] {
      return swiglu_fp8_linear(layer.gate_up, layer.weight, layer.bias, recompute, recipe);
    });
  };
  EXPECT_EQ(norm(false) - norm(true), kRows * kC);  // the FP8 copy, a byte a number
  EXPECT_EQ(gate(false) - gate(true), kRows * kC);
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
