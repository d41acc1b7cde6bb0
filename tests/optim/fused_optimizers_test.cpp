// What AdamW, Adam, SGD and Adagrad have in common, against libtorch's own optimizers.
#include <functional>
#include <sstream>
#include <string_view>

#include <fmt/format.h>

#include <torch/optim/schedulers/step_lr.h>
#include <torch/serialize.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/optim/adagrad.h"
#include "mezzo/optim/adam.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/sgd.h"
#include "tests/close.h"
#include "tests/optim/tensors.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::expect_equal;
using testing::flag;
using testing::magnitude_of;
using testing::some;

// One update of a number: decay, two moments, bias corrections, root, quotient, sum.
constexpr int64_t kRoundingsPerStep = 16;
constexpr int64_t kSteps = 6;

using Params = std::vector<at::Tensor>;
using Make = std::function<std::unique_ptr<torch::optim::Optimizer>(const Params&)>;

struct Case {
  const char* name;
  Make ours, theirs;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

template <class Ours, class Theirs, class Options>
Case both(const char* name, Options options) {
  return {name, [=](const Params& params) { return std::make_unique<Ours>(params, options); },
          [=](const Params& params) { return std::make_unique<Theirs>(params, options); }};
}

std::vector<Case> cases() {
  namespace theirs = torch::optim;
  return {
      both<AdamW, theirs::AdamW>("AdamW", AdamWOptions(0.01).weight_decay(0.1)),
      both<AdamW, theirs::AdamW>("AdamWAmsgrad", AdamWOptions(0.01).amsgrad(true)),
      both<Adam, theirs::Adam>("Adam", AdamOptions(0.01).weight_decay(0.1)),
      both<Adam, theirs::Adam>("AdamAmsgrad", AdamOptions(0.01).amsgrad(true)),
      both<SGD, theirs::SGD>("Sgd", SGDOptions(0.01).weight_decay(0.1)),
      both<SGD, theirs::SGD>("SgdMomentum", SGDOptions(0.01).momentum(0.9)),
      both<SGD, theirs::SGD>("SgdNesterov", SGDOptions(0.01).momentum(0.9).nesterov(true)),
      both<SGD, theirs::SGD>("SgdDampened", SGDOptions(0.01).momentum(0.9).dampening(0.3)),
      both<Adagrad, theirs::Adagrad>("Adagrad", AdagradOptions(0.01).lr_decay(0.1)),
      both<Adagrad, theirs::Adagrad>(
          "AdagradFilled", AdagradOptions(0.01).initial_accumulator_value(0.5).weight_decay(0.1)),
  };
}

Params start() {
  return {some({9, 5}, 1, at::kDouble).set_requires_grad(true),
          some({5}, 2, at::kDouble).set_requires_grad(true)};
}

/// A power of two scales exactly, so that scaled and plain steps have equal bits.
void give_grads(const Params& params, int64_t step, double scale = 1.0) {
  for (size_t i = 0; i < params.size(); ++i) {
    const auto seed = 100 * step + static_cast<int64_t>(i);
    params[i].mutable_grad() = some(params[i].sizes(), seed, at::kDouble).mul(scale);
  }
}

void scaled_step(torch::optim::Optimizer& optimizer, double grad_scale, double found_inf) {
  dynamic_cast<ScaledStep&>(optimizer).scaled_step(flag(grad_scale), flag(found_inf));
}

class FusedOptimizers : public ::testing::TestWithParam<Case> {};

TEST_P(FusedOptimizers, FollowLibtorchsStepByStep) {
  const Params ours = start(), theirs = start();
  const auto optimizer = GetParam().ours(ours), reference = GetParam().theirs(theirs);
  for (int64_t step = 0; step < kSteps; ++step) {
    give_grads(ours, step);
    give_grads(theirs, step);
    optimizer->step();
    reference->step();
    for (size_t i = 0; i < ours.size(); ++i) {
      EXPECT_CLOSE(
          ours[i], theirs[i],
          tolerance_for(at::kDouble, kRoundingsPerStep * (step + 1), magnitude_of(theirs[i])));
    }
  }
}

TEST_P(FusedOptimizers, StepAsIfSkippedStepsHadNeverBeen) {
  const Params plain = start(), scaled = start();
  const auto expected = GetParam().ours(plain), optimizer = GetParam().ours(scaled);
  for (int64_t step = 0; step < kSteps; ++step) {
    give_grads(scaled, 77 + step, INFINITY);
    scaled_step(*optimizer, 1024.0, 1.0);
    expect_equal(scaled, plain);
    give_grads(scaled, step, 1024.0);
    give_grads(plain, step);
    scaled_step(*optimizer, 1024.0, 0.0);
    expected->step();
    expect_equal(scaled, plain);
  }
}

TEST_P(FusedOptimizers, GoOnBitForBitFromAnArchive) {
  const Params params = start();
  const auto optimizer = GetParam().ours(params);
  give_grads(params, 1);
  optimizer->step();

  std::stringstream file;
  torch::save(*optimizer, file);
  Params restored;
  for (const auto& param : params) {
    restored.push_back(param.detach().clone().set_requires_grad(true));
  }
  const auto resumed = GetParam().ours(restored);
  torch::load(*resumed, file);
  for (int64_t step = 2; step < kSteps; ++step) {
    give_grads(params, step);
    give_grads(restored, step);
    optimizer->step();
    resumed->step();
    expect_equal(restored, params);
  }
}

TEST_P(FusedOptimizers, TakeTheirRateFromLibtorchsSchedulers) {
  const Params ours = start(), theirs = start();
  const auto optimizer = GetParam().ours(ours), reference = GetParam().theirs(theirs);
  torch::optim::StepLR schedule(*optimizer, /*step_size=*/1, /*gamma=*/0.5);
  torch::optim::StepLR reference_schedule(*reference, 1, 0.5);
  for (int64_t step = 0; step < kSteps; ++step) {
    give_grads(ours, step);
    give_grads(theirs, step);
    optimizer->step();
    reference->step();
    schedule.step();
    reference_schedule.step();
  }
  const double lr = optimizer->param_groups()[0].options().get_lr();
  EXPECT_EQ(lr, reference->param_groups()[0].options().get_lr());
  EXPECT_LT(lr, 0.01 / 8);
  EXPECT_CLOSE(ours[0], theirs[0],
               tolerance_for(at::kDouble, kRoundingsPerStep * kSteps, magnitude_of(theirs[0])));
}

TEST_P(FusedOptimizers, AreFollowedByProductsOfTheNewWeightsWithinARegion) {
  const at::Tensor weight = some({9, 5}, 1).set_requires_grad(true), x = some({3, 5}, 2);
  const auto optimizer = GetParam().ours({weight});
  const Autocast autocast(at::kCPU, at::kBFloat16);
  const at::Tensor before = at::linear(x, weight);
  before.sum().backward();
  optimizer->step();
  const at::Tensor after = at::linear(x, weight);
  EXPECT_FALSE(at::equal(after, before));
  EXPECT_BIT_EQUAL(after, at::linear(x, weight.detach()));
}

TEST_P(FusedOptimizers, LetNoGraphOfTheOldWeightsBeDifferentiated) {
  const Params params = start();
  const auto optimizer = GetParam().ours(params);
  const at::Tensor loss = (params[0] * params[0]).sum();
  loss.backward({}, /*retain_graph=*/true);
  optimizer->step();
  EXPECT_THAT([&] { loss.backward(); }, ::testing::ThrowsMessage<c10::Error>(::testing::HasSubstr(
                                            "modified by an inplace operation")));
}

TEST_P(FusedOptimizers, RefuseASparseGradient) {
  const Params params = start();
  const auto optimizer = GetParam().ours(params);
  params[0].mutable_grad() = at::zeros({9, 5}, at::kDouble).to_sparse();
  EXPECT_THROW_WITH(optimizer->step(), "gradients must be dense, but one of shape [9, 5]");
}

TEST_P(FusedOptimizers, RefuseAGradientOfAnotherDtype) {
  const Params params = start();
  const auto optimizer = GetParam().ours(params);
  params[0].mutable_grad() = at::zeros({9, 5}, at::kFloat);
  EXPECT_THROW_WITH(optimizer->step(),
                    "a gradient must be Double as its parameter, but one of shape [9, 5] is Float");
}

TEST_P(FusedOptimizers, AreLeftAsTheyWereByAGradientThatIsRefusedInAnyGroup) {
  const at::Tensor zeros = at::zeros({5}, at::kDouble);
  for (const at::Tensor& refused : {zeros.to_sparse(), zeros.to(at::kFloat)}) {
    const Params params = start(), untouched = start();
    const auto optimizer = GetParam().ours({params[0]});
    const auto expected = GetParam().ours({untouched[0]});
    optimizer->add_param_group(Params{params[1]});
    expected->add_param_group(Params{untouched[1]});
    give_grads(params, 1);
    params[1].mutable_grad() = refused;
    EXPECT_THROW(optimizer->step(), Error);
    expect_equal(params, untouched);
    for (const Params& all : {params, untouched}) give_grads(all, 1);
    optimizer->step();
    expected->step();
    expect_equal(params, untouched);
  }
}

TEST_P(FusedOptimizers, RefuseAParameterThatNoFusedKernelTakes) {
  const Params params = start();
  for (const at::ScalarType dtype : {at::kComplexFloat, at::kLong, at::kFloat8_e4m3fn}) {
    EXPECT_THROW_WITH(GetParam().ours({params[0], at::empty({2}, dtype)}),
                      fmt::format("parameter 1 of group 0 must be fp64, fp32, bf16 or fp16, but is "
                                  "{}. Hint: train a complex weight as its at::view_as_real()",
                                  c10::toString(dtype)));
  }
}

TEST_P(FusedOptimizers, RefuseAParameterGivenTwice) {
  const Params params = start();
  const char* const error = "each parameter must be given once, but one of shape [9, 5]";
  EXPECT_THROW_WITH(GetParam().ours({params[0], params[1], params[0]}), error);
}

INSTANTIATE_TEST_SUITE_P(All, FusedOptimizers, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

/// Those of cases() that remember something of a parameter.
std::vector<Case> cases_with_state() {
  std::vector<Case> kept = cases();
  std::erase_if(kept, [](const Case& c) { return std::string_view(c.name) == "Sgd"; });
  return kept;
}

class FusedOptimizersState : public ::testing::TestWithParam<Case> {};

TEST_P(FusedOptimizersState, OfParametersUnlikeTheirsIsRefusedAndTheirOwnKept) {
  const at::Tensor weight = some({9, 5}, 1, at::kDouble);
  const Params others = {some({5, 9}, 1, at::kDouble), some({9, 6}, 1, at::kDouble),
                         weight.to(at::kFloat), weight.t().contiguous().t()};
  for (const at::Tensor& other : others) {
    other.set_requires_grad(true);
    other.mutable_grad() = at::ones_like(other);
    const auto stranger = GetParam().ours({other});
    stranger->step();
    std::stringstream file;
    torch::save(*stranger, file);

    const Params params = {start()[0]}, untouched = {start()[0]};
    const auto optimizer = GetParam().ours(params), expected = GetParam().ours(untouched);
    for (int64_t step = 0; step < 2; ++step) {
      give_grads(params, step);
      give_grads(untouched, step);
      optimizer->step();
      expected->step();
      expect_equal(params, untouched);
      if (step == 0) {
        EXPECT_THROW_WITH(torch::load(*optimizer, file),
                          "of parameter 0 of group 0 must be Double [9, 5] with strides [5, 1] on");
      }
    }
  }
}

TEST_P(FusedOptimizersState, OfBeforeTheFirstStepForgetsTheStepsSince) {
  const Params params = {start()[0]}, fresh = {start()[0]};
  const auto optimizer = GetParam().ours(params), expected = GetParam().ours(fresh);
  std::stringstream file;
  torch::save(*optimizer, file);
  give_grads(params, 1);
  optimizer->step();
  torch::load(*optimizer, file);
  {
    const at::NoGradGuard no_grad;
    params[0].copy_(fresh[0]);
  }
  for (const Params& all : {params, fresh}) give_grads(all, 2);
  optimizer->step();
  expected->step();
  expect_equal(params, fresh);
}

TEST_P(FusedOptimizersState, OfAnotherNumberOfGroupsIsRefused) {
  const Params params = start();
  const auto one = GetParam().ours({params[0]}), two = GetParam().ours({params[0]});
  two->add_param_group(Params{params[1]});
  std::stringstream file;
  torch::save(*two, file);
  EXPECT_THROW_WITH(torch::load(*one, file), "a different number of parameter groups");
}

INSTANTIATE_TEST_SUITE_P(All, FusedOptimizersState, ::testing::ValuesIn(cases_with_state()),
                         [](const auto& test) { return test.param.name; });

TEST(FusedOptimizers, RefuseTheOptionsOfAnother) {
  const torch::optim::OptimizerParamGroup group(start(),
                                                std::make_unique<torch::optim::SGDOptions>(0.1));
  const char* const error = "a parameter group's options must be AdamWOptions";
  EXPECT_THROW_WITH(AdamW({group}, torch::optim::AdamWOptions()), error);
  AdamW optimizer({some({3}, 1).set_requires_grad(true)});
  EXPECT_THROW_WITH(optimizer.add_param_group(group), error);
}

TEST(FusedOptimizers, RefuseAParameterInASecondGroup) {
  const Params params = start();
  Adam optimizer(params);
  EXPECT_THROW_WITH(optimizer.add_param_group(Params{params[1]}),
                    "each parameter must be given once, but one of shape [5] is given twice");
  EXPECT_EQ(optimizer.param_groups().size(), 1U);
}

TEST(FusedOptimizers, RefuseAComplexParameterInASecondGroup) {
  Adam optimizer(start());
  EXPECT_THROW_WITH(optimizer.add_param_group(Params{at::zeros({2}, at::kComplexFloat)}),
                    "parameter 0 of group 1 must be fp64, fp32, bf16 or fp16");
  EXPECT_EQ(optimizer.param_groups().size(), 1U);
}

/// Looks where a step finds the scale.
class Spectator : public FusedOptimizer<SGDOptions, SGDState> {
 public:
  explicit Spectator(Params params)
      : FusedOptimizer("Spectator", {torch::optim::OptimizerParamGroup(std::move(params))},
                       SGDOptions(0.1)) {}
  std::vector<at::Device> devices;

 private:
  void update(const Bucket<SGDState>& bucket, const SGDOptions&,
              const ScaleOfStep& scale) override {
    devices.push_back(bucket.params.front().device());
    EXPECT_EQ(scale.grad_scale->device(), devices.back());
    EXPECT_EQ(scale.found_inf->device(), devices.back());
  }
};

TEST(FusedOptimizers, FindTheScaleOnEachDeviceOfTheirParameters) {
  const Params params = {at::ones({2}), at::ones({2}, at::kMeta)};
  for (const at::Tensor& param : params) {
    param.set_requires_grad(true);
    param.mutable_grad() = at::ones_like(param);
  }
  Spectator optimizer(params);
  scaled_step(optimizer, 1024.0, 0.0);
  EXPECT_THAT(optimizer.devices,
              ::testing::ElementsAre(at::Device(at::kCPU), at::Device(at::kMeta)));
}

TEST(FusedOptimizers, RefuseOptionsOutOfRange) {
  const Params params = start();
  EXPECT_THROW_WITH(Adam(params, AdamOptions(-1.0)), "[Adam] lr must be >= 0, but is -1");
  EXPECT_THROW_WITH(Adam(params, AdamOptions().betas({0.9, 1.0})), "betas[1] must be in [0, 1)");
  EXPECT_THROW_WITH(SGD(params, SGDOptions(0.1).momentum(-0.5)), "momentum must be >= 0");
  EXPECT_THROW_WITH(SGD(params, SGDOptions(0.1).nesterov(true)),
                    "nesterov needs momentum > 0 and dampening = 0, but they are 0 and 0");
  EXPECT_THROW_WITH(Adagrad(params, AdagradOptions().lr_decay(-1)), "lr_decay must be >= 0");
}

}  // namespace
}  // namespace mezzo::optim
