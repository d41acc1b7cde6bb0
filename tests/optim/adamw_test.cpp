#include "mezzo/optim/adamw.h"

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/optim/tensors.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::expect_equal;
using testing::flag;
using testing::magnitude_of;
using testing::snapshot;
using testing::some;

/// Two parameters with gradients `factor` times the script's, of `dtype`.
NamedParameters two_parameters(at::ScalarType dtype = at::kFloat, double factor = 1.0) {
  NamedParameters named;
  named.insert("weight", some({33, 7}, 1, dtype).set_requires_grad(true));
  named.insert("bias", some({7}, 2, dtype).set_requires_grad(true));
  named["weight"].mutable_grad() = some({33, 7}, 3, dtype).mul(factor);
  named["bias"].mutable_grad() = some({7}, 4, dtype).mul(factor);
  return named;
}

class AdamWDtypes : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWDtypes, ASkippedStepChangesNoBit) {
  auto named = two_parameters(GetParam());
  AdamW optimizer(decay_groups(named, AdamWOptions(0.1)));
  optimizer.step();
  const auto before = snapshot(optimizer, named);
  named["weight"].mutable_grad()[3][4] = INFINITY;
  optimizer.scaled_step(flag(1024.0), flag(1.0));
  expect_equal(snapshot(optimizer, named), before);
  EXPECT_EQ(before.at("step.weight").item<float>(), 1.0F);
}

TEST_P(AdamWDtypes, AStepOnScaledGradientsIsTheStepOnPlainOnes) {
  auto plain = two_parameters(GetParam()), scaled = two_parameters(GetParam(), 1024.0);
  AdamW plain_optimizer(decay_groups(plain, AdamWOptions(0.1)));
  AdamW scaled_optimizer(decay_groups(scaled, AdamWOptions(0.1)));
  plain_optimizer.step();
  // A power of two scales and unscales exactly: equal bits, not nearly so.
  scaled_optimizer.scaled_step(flag(1024.0), flag(0.0));
  expect_equal(snapshot(scaled_optimizer, scaled), snapshot(plain_optimizer, plain));
  EXPECT_BIT_EQUAL(scaled["bias"].grad(), plain["bias"].grad());
}

TEST_P(AdamWDtypes, AStepWithoutAScaleIsAPlainStep) {
  auto plain = two_parameters(GetParam()), scaled = two_parameters(GetParam());
  AdamW plain_optimizer(decay_groups(plain, AdamWOptions(0.1)));
  AdamW scaled_optimizer(decay_groups(scaled, AdamWOptions(0.1)));
  plain_optimizer.step();
  scaled_optimizer.scaled_step(std::nullopt, at::zeros({1}));
  expect_equal(snapshot(scaled_optimizer, scaled), snapshot(plain_optimizer, plain));
}

TEST_P(AdamWDtypes, MomentsHaveTheParametersDtypeAndTheStepIsFp32) {
  auto named = two_parameters(GetParam());
  AdamW optimizer(decay_groups(named, {}));
  const auto state = optimizer.named_state(named);
  EXPECT_EQ(state.at("exp_avg.weight").scalar_type(), GetParam());
  EXPECT_EQ(state.at("exp_avg_sq.bias").scalar_type(), GetParam());
  EXPECT_EQ(state.at("step.weight").scalar_type(), at::kFloat);
  EXPECT_EQ(state.at("step.weight").dim(), 0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, AdamWDtypes,
                         ::testing::Values(at::kFloat, at::kDouble, at::kHalf, at::kBFloat16),
                         [](const auto& test) { return c10::toString(test.param); });

TEST(AdamW, TheFirstStepAfterSkippedOnesIsTheFirst) {
  auto never = two_parameters(), skipped = two_parameters();
  AdamW never_skipped(decay_groups(never, {})), was_skipped(decay_groups(skipped, {}));
  was_skipped.scaled_step(std::nullopt, flag(1.0));
  was_skipped.scaled_step(std::nullopt, flag(1.0));
  never_skipped.step();
  was_skipped.step();
  expect_equal(snapshot(was_skipped, skipped), snapshot(never_skipped, never));
}

TEST(AdamW, SkipsAtAnyFoundInfButZero) {
  for (const double found : {2.0, 0.5, static_cast<double>(NAN)}) {
    auto named = two_parameters();
    AdamW optimizer(decay_groups(named, {}));
    const auto before = snapshot(optimizer, named);
    optimizer.scaled_step(std::nullopt, flag(found));
    expect_equal(snapshot(optimizer, named), before);
  }
}

TEST(AdamW, StepsParametersOfMixedDtypesAsItStepsEachAlone) {
  auto mixed = two_parameters(), alone = two_parameters();
  const auto half = [] {
    auto param = some({5}, 9, at::kHalf).set_requires_grad(true);
    param.mutable_grad() = some({5}, 10, at::kHalf);
    return param;
  };
  const auto mixed_half = half(), alone_half = half();
  AdamW together({mixed["weight"], mixed_half, mixed["bias"]}, AdamWOptions(0.1));
  together.step();
  AdamW fp32_only({alone["weight"], alone["bias"]}, AdamWOptions(0.1));
  AdamW fp16_only({alone_half}, AdamWOptions(0.1));
  fp32_only.step();
  fp16_only.step();
  EXPECT_BIT_EQUAL(mixed["weight"], alone["weight"]);
  EXPECT_BIT_EQUAL(mixed["bias"], alone["bias"]);
  EXPECT_BIT_EQUAL(mixed_half, alone_half);
}

TEST(AdamW, UsesTheLearningRateOfEachGroup) {
  auto named = two_parameters();
  AdamW optimizer(decay_groups(named, AdamWOptions(0.1)));
  optimizer.param_groups()[1].options().set_lr(0.0);
  const auto before = snapshot(optimizer, named);
  optimizer.step();
  EXPECT_BIT_EQUAL(named["bias"], before.at("param.bias"));
  EXPECT_FALSE(testing::is_bit_equal(named["weight"], before.at("param.weight")));
}

TEST(AdamW, LeavesAParameterWithoutAGradientAlone) {
  auto named = two_parameters();
  named["bias"].mutable_grad() = at::Tensor();
  AdamW optimizer({named["weight"], named["bias"]}, AdamWOptions(0.1).weight_decay(0.5));
  const auto before = named["bias"].detach().clone();
  optimizer.step();
  EXPECT_BIT_EQUAL(named["bias"], before);
  EXPECT_EQ(optimizer.named_state(named).at("step.bias").item<float>(), 0.0F);
}

TEST(AdamW, WalksAGradientOfOtherStridesByIndexNotByMemory) {
  auto named = two_parameters(), transposed = two_parameters();
  auto& grad = transposed["weight"].mutable_grad();
  grad = grad.t().contiguous().t();
  ASSERT_FALSE(grad.is_contiguous());
  AdamW expected(decay_groups(named, {})), optimizer(decay_groups(transposed, {}));
  expected.step();
  optimizer.step();
  EXPECT_BIT_EQUAL(transposed["weight"], named["weight"]);
}

TEST(AdamW, RefusesAParameterWithHolesInMemory) {
  auto param = at::zeros({4, 6}).slice(1, 0, 3).detach().set_requires_grad(true);
  param.mutable_grad() = at::ones({4, 3});
  AdamW optimizer({param});
  EXPECT_THROW_WITH(optimizer.step(), "dense in memory, but has strides [6, 1] for shape [4, 3]");
}

TEST(AdamW, TheClosureRunsWithGradientsOnAndItsLossIsReturned) {
  auto param = at::ones({3}).set_requires_grad(true);
  AdamW optimizer({param}, AdamWOptions(0.1));
  const at::NoGradGuard no_grad;
  const auto loss = optimizer.step([&] {
    auto sum = param.sum();
    sum.backward();
    return sum;
  });
  EXPECT_EQ(loss.item<float>(), 3.0F);
  EXPECT_LT(magnitude_of(param), 1.0);
  EXPECT_FALSE(optimizer.step().defined());
}

TEST(AdamW, RefusesOptionsOutOfRange) {
  const std::vector<at::Tensor> params{at::ones({1}).set_requires_grad(true)};
  EXPECT_THROW(AdamW(params, AdamWOptions(-1.0)), UsageError);
  EXPECT_THROW_WITH(AdamW(params, AdamWOptions(-1.0)), "lr must be >= 0, but is -1");
  EXPECT_THROW_WITH(AdamW(params, AdamWOptions().eps(-1)), "eps must be >= 0, but is -1");
  EXPECT_THROW_WITH(AdamW(params, AdamWOptions().weight_decay(NAN)), "weight_decay must be >= 0");
  EXPECT_THROW_WITH(AdamW(params, AdamWOptions().betas({1.0, 0.9})),
                    "betas[0] must be in [0, 1), but is 1");
  EXPECT_THROW_WITH(AdamW(params, AdamWOptions().betas({0.9, -0.5})), "betas[1] must be in");
}

TEST(AdamW, RefusesAScaleOrFlagThatIsNotOneFp32Number) {
  auto named = two_parameters();
  AdamW optimizer(decay_groups(named, {}));
  EXPECT_THROW_WITH(optimizer.scaled_step(std::nullopt, at::zeros({2})), "found_inf must be one");
  EXPECT_THROW_WITH(optimizer.scaled_step(at::ones({}, at::kHalf), flag(0)),
                    "grad_scale must be one fp32 number, but is 1 x Half");
  EXPECT_THROW_WITH(optimizer.scaled_step(std::nullopt, {}), "found_inf must be defined");
}

}  // namespace
}  // namespace mezzo::optim
