#include "mezzo/amp/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/base/check.h"
#include "mezzo/base/memory.h"
#include "mezzo/base/scope.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

using Tensors = std::vector<at::Tensor>;

struct Part {
  at::Tensor weight = at::randn({32, 32}).requires_grad_();
  Tensors operator()(const Tensors& inputs) const {
    return {at::dropout(at::gelu(at::linear(inputs[0], weight)), 0.5, /*train=*/true)};
  }
};

struct Result {
  at::Tensor loss, x, weight;
};

/// Loss and gradients of two parts one after the other in a region of bf16.
Result run(const std::vector<Part>& parts, bool is_checkpointed) {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(5);
  const at::Tensor x = at::linspace(-1, 1, 8 * 32).view({8, 32}).requires_grad_();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    Tensors y = {x};
    for (const Part& part : parts) {
      part.weight.mutable_grad() = at::Tensor();
      y = is_checkpointed ? checkpoint(part, y) : part(y);
    }
    loss = y[0].to(at::kFloat).square().sum();
  }
  loss.backward();
  return {loss.detach(), x.grad(), parts.front().weight.grad()};
}

TEST(Checkpoint, GivesTheSameBitsWithDropoutUnderAutocast) {
  const std::vector<Part> parts(2);
  const Result plain = run(parts, false), checkpointed = run(parts, true);
  EXPECT_BIT_EQUAL(checkpointed.loss, plain.loss);
  EXPECT_BIT_EQUAL(checkpointed.x, plain.x);
  EXPECT_BIT_EQUAL(checkpointed.weight, plain.weight);
}

TEST(Checkpoint, LeavesTheGeneratorWhereTheForwardPassLeftIt) {
  const std::vector<Part> parts(2);
  run(parts, false);
  const at::Tensor plain = at::rand({4});
  run(parts, true);
  EXPECT_BIT_EQUAL(at::rand({4}), plain);
}

TEST(Checkpoint, KeepsOnlyTheInputs) {
  const at::Tensor x = at::randn({1 << 16}).requires_grad_();
  const CheckpointFunction part = [](const Tensors& in) {
    at::Tensor y = in[0];
    for (int i = 0; i < 8; ++i) y = y.sin();
    return Tensors{y};
  };
  const TensorMemoryMeter meter;
  const at::Tensor generator = at::globalContext().defaultGenerator(at::kCPU).get_state();
  const Tensors y = checkpoint(part, {x});
  EXPECT_EQ(meter.current_bytes(), static_cast<int64_t>(x.nbytes() + 2 * generator.nbytes()))
      << "the output, and the state of the random numbers";
  const int64_t before = meter.current_bytes();
  const Tensors z = checkpoint(part, {x}, /*preserves_random=*/false);
  EXPECT_EQ(meter.current_bytes() - before, static_cast<int64_t>(x.nbytes())) << "the output";
  z[0].sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

/// Notes the scope and the dtype that it runs in.
CheckpointFunction linear_that_tells(std::vector<std::string>& seen) {
  return [&seen, weight = at::randn({4, 4}).requires_grad_()](const Tensors& in) {
    const at::Tensor y = at::linear(in[0], weight);
    seen.push_back(Scope::path() + " " + c10::toString(y.scalar_type()));
    return Tensors{y};
  };
}

TEST(Checkpoint, RunsAgainInItsScopeUnderItsPolicy) {
  CastPolicy policy = CastPolicy::mezzo();
  policy.set("linear", CastRule::kFp32, "inner");
  std::vector<std::string> seen;
  const CheckpointFunction part = linear_that_tells(seen);
  at::Tensor y;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    const CastPolicyGuard guard(policy);
    const Scope scope("inner");
    y = checkpoint(part, {at::randn({2, 4}).requires_grad_()})[0];
  }
  y.sum().backward();
  EXPECT_THAT(seen, ::testing::ElementsAre("inner Float", "inner Float"));
}

TEST(Checkpoint, RunsAgainInItsScopeUnderItsPolicyWhateverIsAroundTheBackwardPass) {
  std::vector<std::string> seen;
  const CheckpointFunction part = linear_that_tells(seen);
  const Scope scope("student");
  at::Tensor y;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    y = checkpoint(part, {at::randn({2, 4}).requires_grad_()})[0];
  }
  const CastPolicyGuard guard(CastPolicy::mezzo().set("linear", CastRule::kFp32));
  y.sum().backward();
  EXPECT_THAT(seen, ::testing::ElementsAre("student Half", "student Half"));
  EXPECT_EQ(Scope::path(), "student");
}

TEST(Checkpoint, DifferentiatesInFp32WhatRanInFp32) {
  const at::Tensor weight = at::randn({32, 32}).requires_grad_();
  const CheckpointFunction by_rule = [&](const Tensors& in) {
    const CastPolicyGuard guard(CastPolicy::mezzo().set("linear", CastRule::kFp32));
    return Tensors{at::linear(in[0], weight)};
  };
  const CheckpointFunction in_an_island = [&](const Tensors& in) {
    const Autocast island(at::kCPU, std::nullopt, /*enabled=*/false);
    return Tensors{at::linear(in[0], weight)};
  };
  const auto gradient = [&](const CheckpointFunction& part, bool is_checkpointed) {
    weight.mutable_grad() = at::Tensor();
    const Tensors x = {at::linspace(-1, 1, 8 * 32).view({8, 32}).requires_grad_()};
    at::Tensor loss;
    {
      const Autocast autocast(at::kCPU, at::kHalf);
      loss = (is_checkpointed ? checkpoint(part, x) : part(x))[0].square().sum();
    }
    loss.backward();
    return weight.grad();
  };
  for (const CheckpointFunction& part : {by_rule, in_an_island})
    EXPECT_BIT_EQUAL(gradient(part, true), gradient(part, false));
}

TEST(Checkpoint, RunsAgainWithoutACacheOfCastsWhereItRanWithout) {
  std::vector<bool> seen;
  const CheckpointFunction part = [&](const Tensors& in) {
    seen.push_back(at::autocast::is_autocast_cache_enabled());
    return Tensors{in[0].sin()};
  };
  at::Tensor y;
  {
    const Autocast autocast(at::kCPU, at::kHalf, /*enabled=*/true, /*cache_enabled=*/false);
    y = checkpoint(part, {at::randn({4}).requires_grad_()})[0];
  }
  y.sum().backward();
  EXPECT_THAT(seen, ::testing::ElementsAre(false, false));
}

TEST(Checkpoint, UnderNoGradIsJustTheCall) {
  const at::NoGradGuard no_grad;
  EXPECT_EQ(checkpoint(Part(), {at::randn({2, 32})})[0].size(1), 32);
}

TEST(Checkpoint, RefusesInputsThatNobodyTrains) {
  EXPECT_THROW_WITH(checkpoint(Part(), {at::randn({2, 32})}), "none of the 1 inputs requires grad");
}

TEST(Checkpoint, RefusesABackwardPassToSomeInputsAlone) {
  const at::Tensor x = at::randn({2, 32}).requires_grad_();
  const auto loss = [&] { return checkpoint(Part(), {x})[0].sum(); };
  const char* const error = "needs backward() without `inputs`";
  EXPECT_THROW_WITH(torch::autograd::grad({loss()}, {x}), error);
  EXPECT_THROW_WITH(torch::autograd::backward({loss()}, {}, std::nullopt, false, {x}), error);
}

TEST(Checkpoint, RefusesASecondDifferentiation) {
  const at::Tensor x = at::randn({2, 32}).requires_grad_();
  const at::Tensor y = checkpoint(Part(), {x})[0].sum();
  EXPECT_THROW_WITH(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true),
                    "cannot be differentiated twice");
}

}  // namespace
}  // namespace mezzo
