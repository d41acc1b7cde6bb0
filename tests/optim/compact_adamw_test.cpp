#include "mezzo/optim/compact_adamw.h"

#include <sstream>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/optim/adamw.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/serialize.h>

#include "mezzo/base/error.h"
#include "mezzo/base/float_format.h"
#include "mezzo/optim/clip.h"
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
using testing::Tensors;

// One update of a number: decay, two moments, bias corrections, root, quotient, sum.
constexpr int64_t kRoundingsPerStep = 16;

/// Above and below the size for 8 bits, without elements, and of one dimension.
NamedParameters model() {
  NamedParameters named;
  named.insert("matrix", some({67, 65}, 1).set_requires_grad(true));
  named.insert("small", some({33, 31}, 2).set_requires_grad(true));
  named.insert("empty", some({0, 3}, 3).set_requires_grad(true));
  named.insert("bias", some({5000}, 4).set_requires_grad(true));
  return named;
}

void give_grads(NamedParameters& named, int64_t step, double scale = 1.0,
                at::ScalarType dtype = at::kFloat) {
  int64_t seed = 100 * step;
  for (auto& parameter : named) {
    parameter.value().mutable_grad() = some(parameter.value().sizes(), ++seed).to(dtype).mul(scale);
  }
}

CompactAdamWOptions options(bool splits, int64_t moment_bits) {
  return CompactAdamWOptions(0.01).weight_decay(0.1).moment_bits(moment_bits).split_weights(splits);
}

class CompactAdamWModes : public ::testing::TestWithParam<std::tuple<bool, int64_t>> {
 protected:
  CompactAdamWOptions mode = options(std::get<0>(GetParam()), std::get<1>(GetParam()));
  NamedParameters named = model(), other = model();
  CompactAdamW optimizer{decay_groups(named, mode)}, twin{decay_groups(other, mode)};
};

TEST_P(CompactAdamWModes, ASkippedStepChangesNoBit) {
  give_grads(named, 1);
  optimizer.step();
  const auto before = snapshot(optimizer, named);
  give_grads(named, 2, INFINITY);
  for (const double found : {1.0, 0.5, static_cast<double>(NAN)}) {
    optimizer.scaled_step(flag(1024.0), flag(found));
    expect_equal(snapshot(optimizer, named), before);
  }
}

TEST_P(CompactAdamWModes, DividesTheGradientsAndLeavesThemAsTheyAre) {
  for (int64_t step = 1; step <= 5; ++step) {
    give_grads(named, step, 1000.0);
    give_grads(other, step, 1000.0);
    const at::Tensor given = named["matrix"].grad().clone();
    optimizer.scaled_step(flag(3.7), flag(0.0));
    EXPECT_BIT_EQUAL(named["matrix"].grad(), given);
    for (auto& parameter : other) {
      parameter.value().mutable_grad() /= flag(3.7);
    }
    twin.step();
  }
  expect_equal(snapshot(optimizer, named), snapshot(twin, other));
}

TEST_P(CompactAdamWModes, GoesOnBitForBitFromAnArchive) {
  give_grads(named, 1);
  optimizer.step();
  std::stringstream file;
  torch::save(optimizer, file);
  {
    const at::NoGradGuard no_grad;
    for (auto& parameter : other) parameter.value().copy_(named[parameter.key()]);
  }
  torch::load(twin, file);
  for (int64_t step = 2; step < 6; ++step) {
    give_grads(named, step);
    give_grads(other, step);
    optimizer.step();
    twin.step();
  }
  expect_equal(snapshot(twin, other), snapshot(optimizer, named));
}

TEST_P(CompactAdamWModes, RefusesAnArchiveOfAnotherModelAndKeepsItsState) {
  NamedParameters unlike = model();
  unlike["bias"] = some({5001}, 4).set_requires_grad(true);
  CompactAdamW stranger(decay_groups(unlike, mode));
  std::stringstream file;
  torch::save(stranger, file);
  give_grads(named, 1);
  optimizer.step();
  const Tensors before = snapshot(optimizer, named);
  EXPECT_THROW_WITH(torch::load(optimizer, file),
                    "exp_avg of parameter 0 of group 1 must be Float");
  expect_equal(snapshot(optimizer, named), before);
}

TEST_P(CompactAdamWModes, RefusesAnArchiveWhoseWeightsAreSplitOtherwiseAndKeepsItsState) {
  CompactAdamWOptions otherwise = mode;
  otherwise.split_weights(!mode.split_weights());
  CompactAdamW stranger(decay_groups(model(), otherwise));
  std::stringstream file;
  torch::save(stranger, file);
  give_grads(named, 1);
  optimizer.step();
  const Tensors before = snapshot(optimizer, named);
  EXPECT_THROW_WITH(torch::load(optimizer, file), "split here, but was");
  expect_equal(snapshot(optimizer, named), before);
}

TEST_P(CompactAdamWModes, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  for (int64_t step = 1; step < 4; ++step) {
    give_grads(named, step, 1.0, at::kBFloat16);
    give_grads(other, step, 1.0, at::kBFloat16);
    at::set_num_threads(1);
    optimizer.step();
    at::set_num_threads(5);
    twin.step();
  }
  at::set_num_threads(threads);
  expect_equal(snapshot(twin, other), snapshot(optimizer, named));
}

TEST_P(CompactAdamWModes, LeavesAParameterWithoutAGradientAlone) {
  give_grads(named, 1);
  named["matrix"].mutable_grad() = at::Tensor();
  const auto before = snapshot(optimizer, named);
  optimizer.step();
  const auto after = snapshot(optimizer, named);
  for (const char* kind : {"param.", "step.", "exp_avg.", "exp_avg_sq."}) {
    EXPECT_BIT_EQUAL(after.at(std::string(kind) + "matrix"),
                     before.at(std::string(kind) + "matrix"));
    EXPECT_FALSE(testing::is_bit_equal(after.at(std::string(kind) + "bias"),
                                       before.at(std::string(kind) + "bias")));
  }
}

TEST_P(CompactAdamWModes, TakesItsRateFromLibtorchsSchedulers) {
  torch::optim::StepLR schedule(optimizer, /*step_size=*/1, /*gamma=*/0.5);
  for (int64_t step = 1; step < 4; ++step) {
    give_grads(named, step);
    give_grads(other, step);
    set_lr(twin, optimizer.param_groups()[0].options().get_lr());
    optimizer.step();
    twin.step();
    schedule.step();
  }
  EXPECT_LT(optimizer.param_groups()[0].options().get_lr(), 0.01 / 2);
  expect_equal(snapshot(optimizer, named), snapshot(twin, other));
}

INSTANTIATE_TEST_SUITE_P(All, CompactAdamWModes,
                         ::testing::Combine(::testing::Bool(), ::testing::Values(8, 32)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) ? "Split" : "Whole") +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST(CompactAdamW, FollowsLibtorchsAdamWOnFp32) {
  auto named = model(), theirs = model();
  CompactAdamW optimizer(named.values(), options(false, 32));
  torch::optim::AdamW reference(theirs.values(),
                                torch::optim::AdamWOptions(0.01).weight_decay(0.1));
  constexpr int64_t kSteps = 6;
  for (int64_t step = 1; step <= kSteps; ++step) {
    give_grads(named, step);
    give_grads(theirs, step);
    optimizer.step();
    reference.step();
  }
  for (const auto& parameter : named) {
    const at::Tensor& expected = theirs[parameter.key()];
    if (expected.numel() == 0) continue;
    EXPECT_CLOSE(parameter.value(), expected,
                 tolerance_for(at::kFloat, kRoundingsPerStep * kSteps, magnitude_of(expected)));
  }
}

class CompactAdamWGrads : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(CompactAdamWGrads, SplitWeightsAreAnFp32MasterOver1000Steps) {
  auto split = model(), master = model();
  CompactAdamW split_optimizer(split.values(), options(true, 32));
  CompactAdamW master_optimizer(master.values(), options(false, 32));
  for (int64_t step = 1; step <= 1000; ++step) {
    give_grads(split, step % 17, 1.0, GetParam());
    give_grads(master, step % 17, 1.0, GetParam());
    split_optimizer.step();
    master_optimizer.step();
  }
  EXPECT_EQ(split["matrix"].scalar_type(), at::kBFloat16);
  EXPECT_EQ(split["bias"].scalar_type(), at::kFloat);
  expect_equal(split_optimizer.master_weights(split), master_optimizer.master_weights(master));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CompactAdamWGrads,
                         ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& test) { return c10::toString(test.param); });

TEST(CompactAdamW, SplittingKeepsTheParameterItself) {
  auto weight = some({4, 4}, 1).set_requires_grad(true);
  const at::Tensor same = weight, rounded = weight.detach().to(at::kBFloat16);
  CompactAdamW optimizer({weight}, options(true, 32));
  EXPECT_TRUE(same.requires_grad() && same.is_leaf());
  EXPECT_BIT_EQUAL(same, rounded);
  same.square().sum().backward();
  EXPECT_EQ(weight.grad().scalar_type(), at::kBFloat16);
}

// libtorch accumulates in the dtype of the gradient: 256 + 1 is 256 in bf16.
TEST(CompactAdamW, TakesFp32GradientsSummedOverMicroBatchesOfABf16Weight) {
  auto weight = at::ones({2, 2}).set_requires_grad(true);
  CompactAdamW optimizer({weight}, options(true, 32));
  weight.set_grad_dtype(at::kFloat);
  (weight * 256).sum().backward();
  weight.sum().backward();
  EXPECT_BIT_EQUAL(weight.grad(), at::full({2, 2}, 257.0F));
  optimizer.step();
}

TEST(CompactAdamW, StoresWhatItPromisesInBytes) {
  const auto bytes = [](bool splits, int64_t bits) {
    CompactAdamW optimizer({at::zeros({128, 128}).set_requires_grad(true)}, options(splits, bits));
    int64_t sum = -4;  // the step count
    for (const at::Tensor& tensor : optimizer.state_tensors()) sum += tensor.nbytes();
    return static_cast<double>(sum) / (128 * 128);
  };
  EXPECT_EQ(bytes(false, 32), 8.0);
  EXPECT_EQ(bytes(true, 32), 10.0);
  EXPECT_EQ(bytes(false, 8), 2.0625);
  EXPECT_EQ(bytes(true, 8), 4.0625);
}

TEST(CompactAdamW, KeepsMomentsOfVectorsAndSmallTensorsInFp32) {
  auto named = model();
  named.insert("limit", some({64, 64}, 5).set_requires_grad(true));
  CompactAdamW optimizer(named.values(), options(false, 8));
  const auto state = optimizer.named_state(named);
  EXPECT_EQ(state.at("exp_avg.matrix").scalar_type(), at::kChar);
  EXPECT_EQ(state.at("exp_avg_sq.limit").scalar_type(), at::kByte);
  EXPECT_EQ(state.at("exp_avg_scale.matrix").numel(), (67 * 65 + 127) / 128);
  for (const char* name : {"small", "empty", "bias"}) {
    EXPECT_EQ(state.at(std::string("exp_avg.") + name).scalar_type(), at::kFloat);
    EXPECT_FALSE(state.contains(std::string("exp_avg_scale.") + name));
  }
}

TEST(CompactAdamW, TellsAutogradThatTheWeightHasChanged) {
  auto weight = some({3, 3}, 1).set_requires_grad(true);
  CompactAdamW optimizer({weight});
  const auto loss = weight.square().sum();
  weight.mutable_grad() = at::ones({3, 3});
  optimizer.step();
  EXPECT_ANY_THROW(loss.backward());
}

TEST(CompactAdamW, RefusesToRound16BitWeightsUnlessTold) {
  const auto half = [] { return some({4, 3}, 1).to(at::kHalf).set_requires_grad(true); };
  EXPECT_THROW_WITH(CompactAdamW({half()}),
                    "a 16-bit parameter must have been split, but one of shape [4, 3] was Half");
  auto weight = half();
  weight.mutable_grad() = at::ones({4, 3}, at::kHalf);
  CompactAdamW optimizer({weight}, CompactAdamWOptions(0.1).round_weights(true));
  const at::Tensor before = weight.detach().clone();
  optimizer.step();
  EXPECT_CLOSE(weight, before.to(at::kFloat) * (1 - 0.1 * 0.01) - 0.1,
               tolerance_for(at::kHalf, 2, 4.0));
}

TEST(CompactAdamW, RefusesAnFp64GradientInAnyGroupBeforeItMovesTheFirst) {
  const at::Tensor first = at::ones({2}).set_requires_grad(true);
  const at::Tensor second = at::ones({3}).set_requires_grad(true);
  CompactAdamW optimizer({first});
  optimizer.add_param_group(std::vector<at::Tensor>{second});
  first.mutable_grad() = at::ones({2});
  second.mutable_grad() = at::ones({3}, at::kDouble);
  EXPECT_THROW_WITH(optimizer.step(),
                    "a gradient must be fp32, bf16 or fp16, but one of shape [3] is Double");
  EXPECT_BIT_EQUAL(first, at::ones({2}));
}

TEST(CompactAdamW, RefusesASplitWeightThatHasBeenCastAway) {
  auto weight = some({4, 3}, 1).set_requires_grad(true);
  CompactAdamW optimizer({weight}, options(true, 32));
  weight.set_data(weight.detach().to(at::kFloat));
  weight.mutable_grad() = at::ones({4, 3});
  EXPECT_THROW_WITH(optimizer.step(), "must stay bf16, but one of shape [4, 3] is Float now");
}

TEST(CompactAdamW, RefusesWhatItCannotDo) {
  const std::vector<at::Tensor> params{some({2, 2}, 1).set_requires_grad(true)};
  EXPECT_THROW_WITH(CompactAdamW(params, options(false, 4)), "moment_bits must be 8 or 32");
  EXPECT_THROW_WITH(CompactAdamW(params, CompactAdamWOptions(-1.0)), "lr must be >= 0, but is -1");
  EXPECT_THROW_WITH(AdamW8bit(params, options(false, 32)), "moment_bits must be 8, but is 32");
  EXPECT_THROW_WITH(CompactAdamW({at::ones({2}, at::kDouble).set_requires_grad(true)}),
                    "must be fp32, bf16 or fp16, but one of shape [2] is Double");
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(params, std::make_unique<torch::optim::AdamWOptions>());
  EXPECT_THROW_WITH(CompactAdamW(groups), "must be CompactAdamWOptions");
  CompactAdamW optimizer(params);
  EXPECT_THROW_WITH(optimizer.step_one(some({2}, 1)), "must be of this optimizer");
}

TEST(AdamW8bit, StepsAModuleOf16BitsByRounding) {
  auto weight = some({64, 64}, 1).to(at::kBFloat16).set_requires_grad(true);
  AdamW8bit optimizer({weight});
  weight.mutable_grad() = at::ones({64, 64}, at::kBFloat16);
  const at::Tensor before = weight.detach().clone();
  optimizer.step();
  EXPECT_FALSE(testing::is_bit_equal(weight, before));
}

TEST(GradNorm, IsThatOfTheGradientsThatAreThere) {
  auto named = model();
  EXPECT_EQ(grad_norm(named.values()).item<float>(), 0.0F);
  named["small"].mutable_grad() = at::full({33, 31}, 3.0, at::kHalf);
  named["bias"].mutable_grad() = at::full({5000}, 4.0);
  const double exact = std::sqrt(33.0 * 31 * 9 + 5000 * 16.0);
  EXPECT_NEAR(grad_norm(named.values()).item<double>(), exact, 1e-7 * exact);
  named["bias"].mutable_grad()[17] = NAN;
  EXPECT_FALSE(std::isfinite(grad_norm(named.values()).item<float>()));
  named["bias"].mutable_grad().fill_(3e38);
  EXPECT_TRUE(std::isinf(grad_norm(named.values()).item<float>()));
}

}  // namespace
}  // namespace mezzo::optim
