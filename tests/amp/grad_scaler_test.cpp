#include "mezzo/amp/grad_scaler.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scaled_step.h"
#include "tests/amp/fused_sgd.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

at::Tensor parameter(at::ScalarType dtype = at::kFloat) {
  return at::tensor({1.0, -2.0}).to(dtype).requires_grad_();
}

void set_grad(const at::Tensor& p, float first, float second = 1.0f) {
  p.mutable_grad() = at::tensor({first, second}).to(p.scalar_type());
}

torch::optim::SGD sgd(const at::Tensor& p) {
  return torch::optim::SGD(std::vector<at::Tensor>{p}, 0.125);
}

GradScaler scaler_with(GradScalerOptions options) {
  GradScaler scaler(at::kCPU, options);
  scaler.scale(at::ones({}));  // the scale is made by its first use
  return scaler;
}

// ---- The whole trajectory, against torch.amp.GradScaler in Python
// (tests/reference/make_scaler_goldens.py).

at::Tensor scripted_gradient(char symbol, int64_t step) {
  at::Tensor grad = at::tensor({0.5, -1.0 - static_cast<double>(step)}, at::kFloat);
  if (symbol == 'i') grad[step % 2] = kInf;
  if (symbol == 'n') grad[step % 2] = kNaN;
  return grad;
}

void expect_trajectory(const nlohmann::json& scenario, double lr) {
  // 2^-126 is the smallest floor: torch has none, and these scenarios never come near it.
  GradScaler scaler(at::kCPU, {.init_scale = scenario["init_scale"],
                               .growth_factor = scenario["growth_factor"],
                               .backoff_factor = scenario["backoff_factor"],
                               .growth_interval = scenario["growth_interval"],
                               .min_scale = 0x1p-126});
  const std::vector<at::Tensor> weights = {parameter(), parameter()};
  torch::optim::SGD first({weights[0]}, lr), second({weights[1]}, lr);
  const std::string steps = scenario["steps"];
  for (size_t step = 0; step < steps.size(); ++step) {
    for (size_t index = 0; index < weights.size(); ++index) {
      const char symbol = steps[step] != 'I' ? steps[step] : (index == 1 ? 'i' : 'f');
      weights[index].mutable_grad() = at::Tensor();
      const auto grad = scripted_gradient(symbol, static_cast<int64_t>(step));
      scaler.scale((weights[index] * grad).sum()).backward();
    }
    scaler.step(first);
    scaler.step(second);
    scaler.update();
    const auto& expected = scenario["trajectory"][step];
    ASSERT_EQ(scaler.get_scale(), expected["scale"].get<double>()) << steps << " at " << step;
    ASSERT_EQ(scaler.get_growth_tracker(), expected["growth_tracker"].get<int64_t>())
        << steps << " at " << step;
    for (size_t index = 0; index < weights.size(); ++index) {
      const auto values = expected["weights"][index].get<std::vector<double>>();
      ASSERT_TRUE(
          at::equal(weights[index].detach(), at::tensor(values, at::kDouble).to(at::kFloat)))
          << steps << " at " << step << ", weight " << index << ": " << weights[index];
    }
  }
}

TEST(GradScaler, FollowsTorchAmpBitForBitOnScriptedGradients) {
  std::ifstream file(MEZZO_TEST_DATA "/grad_scaler.json");
  const auto golden = nlohmann::json::parse(file);
  ASSERT_GE(golden["scenarios"].size(), 6u);
  for (const auto& scenario : golden["scenarios"]) expect_trajectory(scenario, golden["lr"]);
}

// ---- Scaling and unscaling.

TEST(GradScaler, ScaleMultipliesAndKeepsTheGraph) {
  GradScaler scaler(at::kCPU, {.init_scale = 1024.0});
  const at::Tensor x = at::full({}, 3.0).requires_grad_();
  scaler.scale(x * 2).backward();
  EXPECT_EQ(x.grad().item<float>(), 2048.0f);
}

TEST(GradScaler, ScaleDoesNotOverflowAnFp16LossOfAnyShape) {
  GradScaler scaler(at::kCPU);
  for (const at::Tensor& loss : {at::full({}, 8.0, at::kHalf), at::full({3}, 8.0, at::kHalf)}) {
    EXPECT_EQ(scaler.scale(loss).max().item<float>(), 8.0f * 65536.0f);
  }
}

TEST(GradScaler, ScaleTakesSeveralLosses) {
  GradScaler scaler(at::kCPU, {.init_scale = 2.0});
  const auto scaled = scaler.scale(std::vector<at::Tensor>{at::full({}, 3.0), at::full({}, 5.0)});
  EXPECT_EQ(scaled.at(0).item<float>(), 6.0f);
  EXPECT_EQ(scaled.at(1).item<float>(), 10.0f);
}

TEST(GradScaler, UnscaleGivesTheGradientsBack) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler(at::kCPU, {.init_scale = 1024.0});
  scaler.scale((p * p).sum()).backward();
  scaler.unscale_(optimizer);
  EXPECT_TRUE(at::equal(p.grad(), at::tensor({2.0f, -4.0f})));
  EXPECT_FALSE(scaler.found_inf(optimizer));
}

TEST(GradScaler, SkipsTheStepAndKeepsTheWeightsWhenAGradientIsNotFinite) {
  for (const float bad : {kInf, -kInf, kNaN}) {
    const at::Tensor p = parameter();
    auto optimizer = sgd(p);
    GradScaler scaler = scaler_with({.init_scale = 1024.0});
    set_grad(p, bad);
    scaler.step(optimizer);
    EXPECT_TRUE(scaler.found_inf(optimizer));
    scaler.update();
    EXPECT_TRUE(at::equal(p.detach(), at::tensor({1.0f, -2.0f})));
    EXPECT_EQ(scaler.get_scale(), 512.0);
  }
}

TEST(GradScaler, SparseGradientsAreUnscaledAndChecked) {
  const at::Tensor table = at::zeros({4, 1}).requires_grad_();
  auto optimizer = sgd(table);
  GradScaler scaler = scaler_with({.init_scale = 4.0});
  const auto sparse = [](float value) {
    return at::sparse_coo_tensor(at::tensor({1, 3}, at::kLong).view({1, 2}),
                                 at::tensor({value, 8.0f}).view({2, 1}), {4, 1});
  };
  table.mutable_grad() = sparse(4.0f);
  scaler.unscale_(optimizer);
  EXPECT_TRUE(
      at::equal(table.grad().to_dense(), at::tensor({0.0f, 1.0f, 0.0f, 2.0f}).view({4, 1})));
  scaler.update(4.0);
  table.mutable_grad() = sparse(kInf);
  scaler.unscale_(optimizer);
  EXPECT_TRUE(scaler.found_inf(optimizer));
}

TEST(GradScaler, DuplicateIndicesOfASparseFp16GradientThatOverflowWhenSummedAreFound) {
  const at::Tensor table = at::zeros({4, 1}, at::kHalf).requires_grad_();
  auto optimizer = sgd(table);
  GradScaler scaler = scaler_with({.allow_fp16_grads = true});
  table.mutable_grad() = at::sparse_coo_tensor(at::tensor({1, 1}, at::kLong).view({1, 2}),
                                               at::full({2, 1}, 64000.0, at::kHalf), {4, 1});
  scaler.unscale_(optimizer);
  EXPECT_TRUE(scaler.found_inf(optimizer));
}

TEST(GradScaler, RefusesFp16GradientsUnlessAllowed) {
  const at::Tensor p = parameter(at::kHalf);
  auto optimizer = sgd(p);
  set_grad(p, 2.0f, 4.0f);
  GradScaler strict = scaler_with({.init_scale = 2.0});
  EXPECT_THROW_WITH(strict.unscale_(optimizer), "a gradient of shape 2 is fp16");
  GradScaler lenient = scaler_with({.init_scale = 2.0, .allow_fp16_grads = true});
  lenient.unscale_(optimizer);
  EXPECT_TRUE(at::equal(p.grad(), at::tensor({1.0, 2.0}).to(at::kHalf)));
}

TEST(GradScaler, Bf16GradientsAreUnscaled) {
  const at::Tensor p = parameter(at::kBFloat16);
  auto optimizer = sgd(p);
  set_grad(p, 2.0f, 4.0f);
  GradScaler scaler = scaler_with({.init_scale = 2.0});
  scaler.unscale_(optimizer);
  EXPECT_TRUE(at::equal(p.grad(), at::tensor({1.0, 2.0}).to(at::kBFloat16)));
}

// ---- The scale over time.

TEST(GradScaler, DoublesAfterExactlyGrowthIntervalGoodSteps) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 8.0, .growth_interval = 3});
  std::vector<double> scales;
  for (int step = 0; step < 6; ++step) {
    set_grad(p, 1.0f);
    scaler.step(optimizer);
    scaler.update();
    scales.push_back(scaler.get_scale());
  }
  EXPECT_EQ(scales, (std::vector<double>{8, 8, 16, 16, 16, 32}));
}

TEST(GradScaler, NeverFallsBelowItsFloor) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler =
      scaler_with({.init_scale = 4.0, .min_scale = 1.0, .error_at_min_scale = false});
  for (int step = 0; step < 200; ++step) {
    set_grad(p, kInf);
    scaler.step(optimizer);
    scaler.update();
  }
  EXPECT_EQ(scaler.get_scale(), 1.0);
}

TEST(GradScaler, StaticScaleSkipsButNeverMoves) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 8.0, .growth_interval = 1, .is_dynamic = false});
  for (const float grad : {1.0f, kInf, 1.0f}) {
    set_grad(p, grad);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 8.0);
  }
  EXPECT_EQ(p[0].item<float>(), 1.0f - 2 * 0.125f / 8);  // two steps of three
}

TEST(GradScaler, AnIntervalLoweredBelowTheTrackerStillGrowsAtTheNextGoodStep) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 4.0, .growth_interval = 100});
  const auto good_step = [&] {
    set_grad(p, 1.0f);
    scaler.step(optimizer);
    scaler.update();
  };
  for (int step = 0; step < 10; ++step) good_step();
  scaler.set_growth_interval(3);
  good_step();
  EXPECT_EQ(scaler.get_scale(), 8.0);
}

struct Factor {
  const char* name;
  void (GradScaler::*set)(double);
  double (GradScaler::*get)() const;
  double usual, other, refused;
  float gradient;     // of the step after which it acts
  double next_scale;  // from 8, by the other
};

TEST(GradScaler, AFactorThatIsSetActsOnTheNextUpdate) {
  const Factor factors[] = {{.name = "growth_factor",
                             .set = &GradScaler::set_growth_factor,
                             .get = &GradScaler::get_growth_factor,
                             .usual = 2.0,
                             .other = 4.0,
                             .refused = 1.0,
                             .gradient = 1.0f,
                             .next_scale = 32.0},
                            {.name = "backoff_factor",
                             .set = &GradScaler::set_backoff_factor,
                             .get = &GradScaler::get_backoff_factor,
                             .usual = 0.5,
                             .other = 0.25,
                             .refused = 1.0,
                             .gradient = kInf,
                             .next_scale = 2.0}};
  for (const Factor& factor : factors) {
    SCOPED_TRACE(factor.name);
    const at::Tensor p = parameter();
    auto optimizer = sgd(p);
    GradScaler scaler = scaler_with({.init_scale = 8.0, .growth_interval = 1});
    EXPECT_THROW_WITH((scaler.*factor.set)(factor.refused), std::string(factor.name) + " must be");
    EXPECT_EQ((scaler.*factor.get)(), factor.usual);
    (scaler.*factor.set)(factor.other);
    EXPECT_EQ((scaler.*factor.get)(), factor.other);
    set_grad(p, factor.gradient);
    scaler.step(optimizer);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), factor.next_scale);
  }
}

TEST(GradScaler, UpdateToAGivenScaleKeepsTheTracker) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 4.0});
  set_grad(p, 1.0f);
  scaler.step(optimizer);
  scaler.update();
  scaler.update(32.0);
  EXPECT_EQ(scaler.get_scale(), 32.0);
  EXPECT_EQ(scaler.get_growth_tracker(), 1);
}

// ---- The state machine: every stage of an optimizer and every call.

enum class Call { kUnscale, kStep, kUpdate };

struct Transition {
  std::vector<Call> before;
  Call call;
  const char* error;  // nullptr: allowed
};

// "StepUpdateThenUnscale"
std::string name_of(const Transition& transition) {
  const auto word = [](Call call) {
    return call == Call::kUnscale ? "Unscale" : call == Call::kStep ? "Step" : "Update";
  };
  std::string name;
  for (const Call call : transition.before) name += word(call);
  return name + "Then" + word(transition.call);
}

std::ostream& operator<<(std::ostream& out, const Transition& t) { return out << name_of(t); }

class GradScalerStages : public ::testing::TestWithParam<Transition> {};

TEST_P(GradScalerStages, AllowsOrRefusesTheCall) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  set_grad(p, 1.0f);
  GradScaler scaler = scaler_with({.init_scale = 4.0});
  const auto make = [&](Call call) {
    if (call == Call::kUnscale) scaler.unscale_(optimizer);
    if (call == Call::kStep) scaler.step(optimizer);
    if (call == Call::kUpdate) scaler.update();
  };
  for (const Call call : GetParam().before) make(call);
  if (GetParam().error == nullptr) {
    EXPECT_NO_THROW(make(GetParam().call));
  } else {
    EXPECT_THROW_WITH(make(GetParam().call), GetParam().error);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Transitions, GradScalerStages,
    ::testing::Values(
        Transition{{}, Call::kUnscale, nullptr}, Transition{{}, Call::kStep, nullptr},
        Transition{{}, Call::kUpdate, "no gradient was checked since the last update()"},
        Transition{{Call::kUnscale},
                   Call::kUnscale,
                   "called twice for this optimizer since the last update()"},
        Transition{{Call::kUnscale}, Call::kStep, nullptr},
        Transition{{Call::kUnscale}, Call::kUpdate, nullptr},
        Transition{{Call::kStep}, Call::kUnscale, "called after step() for this optimizer"},
        Transition{
            {Call::kStep}, Call::kStep, "called twice for this optimizer since the last update()"},
        Transition{{Call::kStep}, Call::kUpdate, nullptr},
        Transition{{Call::kStep, Call::kUpdate}, Call::kUnscale, nullptr},
        Transition{{Call::kStep, Call::kUpdate}, Call::kStep, nullptr},
        Transition{{Call::kStep, Call::kUpdate}, Call::kUpdate, "no gradient was checked"}),
    [](const auto& test) { return name_of(test.param); });

TEST(GradScaler, RefusesEveryCallBeforeTheFirstScale) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler(at::kCPU);
  EXPECT_THROW_WITH(scaler.unscale_(optimizer), "[GradScaler.unscale_] called before scale()");
  EXPECT_THROW_WITH(scaler.step(optimizer), "[GradScaler.step] called before scale()");
  EXPECT_THROW_WITH(scaler.update(), "[GradScaler.update] called before scale()");
}

TEST(GradScaler, RefusesAStepWithoutAnyGradient) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({});
  EXPECT_THROW_WITH(scaler.step(optimizer), "no parameter of this optimizer has a gradient");
}

TEST(GradScaler, RefusesArgumentsThatCannotWork) {
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.init_scale = 0.0}), "the scale must be > 0");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.init_scale = kNaN}), "the scale must be > 0");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.growth_factor = 1.0}),
                    "growth_factor must be > 1, but is 1");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.backoff_factor = 1.0}),
                    "backoff_factor must be in (0, 1), but is 1");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.growth_interval = 0}),
                    "growth_interval must be > 0, but is 0");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.min_scale = 0.0}), "min_scale must be >= 2^-126");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.init_scale = 0.5}),
                    "init_scale must be at least min_scale = 1, but is 0.5. Hint: lower min_scale");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.max_scale = 2.0}), "max_scale must be at least");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.max_scale = kInf}), "max_scale must be at least");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.max_scale = kNaN}), "max_scale must be at least");
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.hysteresis = 0}), "hysteresis must be >= 1, but is 0");
}

TEST(GradScaler, RefusesAGpuWhereThereIsNoneUnlessDisabled) {
  if (at::globalContext().hasCUDA()) GTEST_SKIP() << "there is a GPU";
  EXPECT_THROW_WITH(GradScaler(at::kCUDA), "the device is cuda, but no GPU can be used here");
  EXPECT_FALSE(GradScaler(at::kCUDA, {.enabled = false}).is_enabled());
}

// ---- Disabled.

TEST(GradScaler, DisabledPassesEverythingThrough) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler(at::kCPU, {.enabled = false});
  const at::Tensor loss = at::ones({});
  EXPECT_TRUE(scaler.scale(loss).is_same(loss));
  set_grad(p, 8.0f);
  scaler.unscale_(optimizer);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(p[0].item<float>(), 0.0f);
  EXPECT_EQ(scaler.get_scale(), 1.0);
  EXPECT_FALSE(scaler.state_dict().has_value());
}

TEST(GradScaler, TheStateOfADisabledOneIsEmptyAndServesADisabledOneAlone) {
  GradScaler disabled(at::kCPU, {.enabled = false}), scaler(at::kCPU);
  disabled.load_state_dict(disabled.state_dict());
  EXPECT_THROW_WITH(scaler.load_state_dict(disabled.state_dict()), "the state is empty");
}

// ---- State.

TEST(GradScaler, ContinuesFromItsStateAsIfNeverStopped) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 64.0, .growth_interval = 2});
  set_grad(p, 1.0f);
  scaler.step(optimizer);
  scaler.update();
  GradScaler resumed(at::kCPU);
  resumed.load_state_dict(scaler.state_dict().value());
  EXPECT_EQ(resumed.get_scale(), 64.0);  // also before its first scale()
  resumed.scale(at::ones({}));
  set_grad(p, 1.0f);
  resumed.step(optimizer);
  resumed.update();
  EXPECT_EQ(resumed.get_scale(), 128.0);
}

TEST(GradScaler, RefusesAStateThatCannotWorkAndKeepsItsOwn) {
  GradScaler scaler(at::kCPU, {.init_scale = 8.0});
  EXPECT_THROW_WITH(scaler.load_state_dict({-1.0, 2.0, 0.5, 2000, 0}), "the scale must be > 0");
  EXPECT_EQ(scaler.get_scale(), 8.0);
}

// ---- An optimizer that takes the scale and the skip on the device.

class RecordingOptimizer : public torch::optim::SGD, public ScaledStep {
 public:
  explicit RecordingOptimizer(const at::Tensor& p) : SGD(std::vector<at::Tensor>{p}, 0.125) {}
  void scaled_step(const std::optional<at::Tensor>& grad_scale,
                   const at::Tensor& found_inf) override {
    scale_seen = grad_scale.has_value() ? grad_scale->item<float>() : 0.0f;
    found_inf_seen = found_inf.item<float>();
  }
  float scale_seen = -1.0f;
  float found_inf_seen = -1.0f;
};

TEST(GradScaler, HandsScaleAndFoundInfToAnOptimizerThatTakesThem) {
  const at::Tensor p = parameter();
  RecordingOptimizer optimizer(p);
  GradScaler scaler = scaler_with({.init_scale = 16.0});
  set_grad(p, kInf);
  scaler.step(optimizer);
  EXPECT_EQ(optimizer.scale_seen, 16.0f);
  EXPECT_EQ(optimizer.found_inf_seen, 1.0f);
  EXPECT_EQ(p.grad()[1].item<float>(), 1.0f);  // still scaled: the optimizer's own pass divides
}

TEST(GradScaler, HandsNoScaleWhenTheGradientsAreUnscaledAlready) {
  const at::Tensor p = parameter();
  RecordingOptimizer optimizer(p);
  GradScaler scaler = scaler_with({.init_scale = 16.0});
  set_grad(p, 32.0f);
  scaler.unscale_(optimizer);
  scaler.step(optimizer);
  EXPECT_EQ(optimizer.scale_seen, 0.0f);
  EXPECT_EQ(optimizer.found_inf_seen, 0.0f);
}

// ---- Whether it stepped, and the counters.

TEST(GradScaler, StepTellsWhetherItStepped) {
  const at::Tensor p = parameter();
  auto plain = sgd(p);
  testing::FusedSgd fused({p}, 0.125);
  for (torch::optim::Optimizer* optimizer : {static_cast<torch::optim::Optimizer*>(&plain),
                                             static_cast<torch::optim::Optimizer*>(&fused)}) {
    GradScaler scaler = scaler_with({});
    set_grad(p, 1.0f);
    EXPECT_TRUE(scaler.step(*optimizer).stepped());
    scaler.update();
    set_grad(p, kNaN);
    const StepOutcome outcome = scaler.step(*optimizer);
    scaler.update();
    EXPECT_FALSE(outcome.stepped());  // also after update()
  }
}

TEST(GradScaler, CountsStepsSkipsAndTheLastOverflow) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler(at::kCPU);
  EXPECT_EQ(scaler.counters().last_overflow, -1);
  scaler.scale(at::ones({}));
  for (const float grad : {1.0f, kInf, kNaN, 1.0f, 1.0f}) {
    set_grad(p, grad);
    scaler.step(optimizer);
    scaler.update();
  }
  const StepCounts counts = scaler.counters();
  EXPECT_EQ(counts.steps, 3);
  EXPECT_EQ(counts.skips, 2);
  EXPECT_EQ(counts.last_overflow, 2);
}

// ---- Several optimizers.

struct TwoOptimizers {
  at::Tensor a = parameter(), b = parameter();
  torch::optim::SGD plain{std::vector<at::Tensor>{a}, 0.125};
  testing::FusedSgd fused{{b}, 0.125};
  bool has_moved(const at::Tensor& p) const { return p[0].item<float>() != 1.0f; }
};

TEST(GradScaler, OneByOneEachOptimizerDecidesForItself) {
  TwoOptimizers two;
  GradScaler scaler = scaler_with({.init_scale = 4.0});
  set_grad(two.a, kInf);
  set_grad(two.b, 1.0f);
  EXPECT_FALSE(scaler.step(two.plain).stepped());
  EXPECT_TRUE(scaler.step(two.fused).stepped());
  scaler.update();
  EXPECT_FALSE(two.has_moved(two.a));
  EXPECT_TRUE(two.has_moved(two.b));
  EXPECT_EQ(scaler.get_scale(), 2.0);  // one scale for all
}

TEST(GradScaler, TogetherAllOptimizersStepOrNone) {
  for (const bool is_fused_bad : {false, true}) {
    TwoOptimizers two;
    GradScaler scaler = scaler_with({.init_scale = 4.0});
    set_grad(two.a, is_fused_bad ? 1.0f : kInf);
    set_grad(two.b, is_fused_bad ? kNaN : 1.0f);
    EXPECT_FALSE(scaler.step({&two.plain, &two.fused}).stepped());
    EXPECT_EQ(scaler.found_inf(two.plain), !is_fused_bad);
    scaler.update();
    EXPECT_FALSE(two.has_moved(two.a));
    EXPECT_FALSE(two.has_moved(two.b));
    set_grad(two.a, 1.0f);
    set_grad(two.b, 1.0f);
    EXPECT_TRUE(scaler.step({&two.plain, &two.fused}).stepped());
    EXPECT_TRUE(two.has_moved(two.a));
    EXPECT_TRUE(two.has_moved(two.b));
  }
}

TEST(GradScaler, TogetherRefusesWhatAloneIsRefused) {
  TwoOptimizers two;
  GradScaler scaler = scaler_with({});
  set_grad(two.a, 1.0f);
  set_grad(two.b, 1.0f);
  EXPECT_THROW_WITH(scaler.step({&two.plain, &two.plain}), "one is given twice");
  scaler.step(two.fused);
  EXPECT_THROW_WITH(scaler.step({&two.plain, &two.fused}), "called twice for this optimizer");
}

// ---- Facts of the gradients.

TEST(GradScaler, TellsWhatTheGradientsHeldInTheOrderOfTheirNames) {
  const at::Tensor first = parameter(), second = parameter(), unnamed = parameter();
  torch::optim::SGD optimizer({unnamed, second, first}, 0.125);
  GradScaler scaler = scaler_with({.init_scale = 4.0});
  torch::OrderedDict<std::string, at::Tensor> names;
  names.insert("first", first);
  names.insert("second", second);
  scaler.name_parameters(names);
  set_grad(unnamed, 12.0f);
  set_grad(second, kInf);
  scaler.unscale_(optimizer);
  second.mutable_grad().fill_(kNaN);  // as clipping leaves it; the facts are older
  const std::vector<GradientFacts> facts = scaler.gradient_facts(optimizer);
  ASSERT_EQ(facts.size(), 2u);
  EXPECT_EQ(facts[0].name, "second");
  EXPECT_EQ(facts[0].facts.positive_inf, 1);
  EXPECT_EQ(facts[0].facts.nan, 0);
  EXPECT_EQ(facts[1].name, "parameter 0 of group 0, shape 2");
  EXPECT_EQ(facts[1].facts.largest, 12.0);  // scaled: as it was before
}

TEST(GradScaler, TellsTheLargestScaledGradientOfTheStep) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 1024.0});
  set_grad(p, 2048.0f);
  scaler.step(optimizer);
  EXPECT_EQ(scaler.largest_gradient(optimizer), 2048.0);
  scaler.update();
  EXPECT_THROW_WITH(scaler.largest_gradient(optimizer), "nothing is known of this optimizer");
}

TEST(GradScaler, DisabledKnowsNoFacts) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  const GradScaler scaler(at::kCPU, {.enabled = false});
  EXPECT_TRUE(scaler.gradient_facts(optimizer).empty());
  EXPECT_FALSE(scaler.largest_gradient(optimizer).has_value());
}

// ---- An overflow at the floor.

TEST(GradScaler, AnOverflowAtTheFloorNamesTheWorstParameters) {
  const at::Tensor named = at::zeros({4, 5}).requires_grad_();
  const at::Tensor unnamed = at::zeros({2, 3}).requires_grad_();
  const at::Tensor fine = at::zeros({2}).requires_grad_();
  named.mutable_grad() = at::zeros({4, 5});
  named.mutable_grad()[0][0] = kInf;
  unnamed.mutable_grad() = at::full({2, 3}, kNaN);
  fine.mutable_grad() = at::zeros({2});
  torch::optim::SGD optimizer(std::vector<at::Tensor>{named, fine, unnamed}, 0.125);
  GradScaler scaler = scaler_with({.init_scale = 2.0, .growth_interval = 1});
  torch::OrderedDict<std::string, at::Tensor> names;
  names.insert("h.0.weight", named);
  scaler.name_parameters(names);

  scaler.step(optimizer);
  EXPECT_NO_THROW(scaler.update());  // from 2 to 1
  scaler.step(optimizer);
  EXPECT_THROW_WITH(scaler.update(),
                    "minimum of 1, so there is nothing left to lower. Most non-finite gradients: "
                    "parameter 2 of group 0, shape 2 x 3 (6 of 6 elements), h.0.weight (1 of 20 "
                    "elements). Hint");
  // The error is told once; the scaler can go on.
  EXPECT_EQ(scaler.get_scale(), 1.0);
  EXPECT_EQ(scaler.counters().skips, 2);
  optimizer.zero_grad();
  named.mutable_grad() = at::zeros({4, 5});
  EXPECT_TRUE(scaler.step(optimizer).stepped());
  EXPECT_NO_THROW(scaler.update());
  EXPECT_EQ(scaler.get_scale(), 2.0);
}

TEST(GradScaler, AStaticScaleAtTheFloorOverflowsWithoutAnError) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 1.0, .is_dynamic = false});
  set_grad(p, kInf);
  scaler.step(optimizer);
  EXPECT_NO_THROW(scaler.update());
}

TEST(GradScaler, HysteresisPutsTheErrorAtTheFloorOffToo) {
  const at::Tensor p = parameter();
  auto optimizer = sgd(p);
  GradScaler scaler = scaler_with({.init_scale = 1.0, .hysteresis = 2});
  const auto overflow = [&] {
    set_grad(p, kInf);
    scaler.step(optimizer);
    scaler.update();
  };
  EXPECT_NO_THROW(overflow());
  EXPECT_THROW_WITH(overflow(), "parameter 0 of group 0, shape 2 (1 of 2 elements)");
}

// ---- Bounds.

TEST(GradScaler, AScaleFromOutsideIsBroughtWithinTheBounds) {
  GradScaler scaler = scaler_with({.init_scale = 16.0, .min_scale = 2.0, .max_scale = 64.0});
  scaler.update(1024.0);
  EXPECT_EQ(scaler.get_scale(), 64.0);
  scaler.update(at::full({1}, 0.5));
  EXPECT_EQ(scaler.get_scale(), 2.0);
  scaler.update(at::full({}, kNaN));
  EXPECT_EQ(scaler.get_scale(), 2.0);
  scaler.update(at::full({}, kInf));
  EXPECT_EQ(scaler.get_scale(), 64.0);
  scaler.load_state_dict({0.25, 2.0, 0.5, 2000, 0});
  EXPECT_EQ(scaler.get_scale(), 2.0);
}

TEST(GradScaler, RefusesANewScaleThatIsNotOneElementWithoutGradient) {
  GradScaler scaler = scaler_with({});
  EXPECT_THROW_WITH(scaler.update(at::ones({2})), "new_scale must be one element");
  EXPECT_THROW_WITH(scaler.update(at::ones({}).requires_grad_()), "without gradient");
  EXPECT_THROW_WITH(scaler.update(at::Tensor()), "new_scale must be one element");
  EXPECT_THROW_WITH(scaler.update(0.0), "the scale must be > 0");
  EXPECT_EQ(scaler.get_scale(), 65536.0);
}

// ---- No read on the host.

int64_t g_host_reads = 0;

std::unique_ptr<at::ObserverContext> count_host_reads(const at::RecordFunction& op) {
  const std::string_view name = op.name();
  if (name == "aten::item" || name == "aten::_local_scalar_dense" || name == "aten::is_nonzero") {
    ++g_host_reads;
  }
  return nullptr;
}

struct HostReadCounter {
  HostReadCounter() {
    g_host_reads = 0;
    handle = at::addThreadLocalCallback(at::RecordFunctionCallback(count_host_reads));
  }
  ~HostReadCounter() { at::removeCallback(handle); }
  at::CallbackHandle handle;
};

int64_t host_reads_of_a_step(torch::optim::Optimizer& optimizer, const at::Tensor& p,
                             GradScaler& scaler, bool unscales) {
  const HostReadCounter counter;
  scaler.scale((p * p).sum()).backward();
  if (unscales) scaler.unscale_(optimizer);
  scaler.step(optimizer);
  scaler.update();
  return g_host_reads;
}

TEST(GradScaler, ReadsNothingOnTheHostWithAnOptimizerThatSkipsByItself) {
  const at::Tensor p = parameter();
  testing::FusedSgd fused({p}, 0.125);
  for (const int64_t hysteresis : {1, 2}) {
    for (const bool unscales : {false, true}) {
      GradScaler scaler(at::kCPU, {.hysteresis = hysteresis});
      EXPECT_EQ(host_reads_of_a_step(fused, p, scaler, unscales), 0);
    }
  }
  auto plain = sgd(p);  // the counter counts
  GradScaler scaler(at::kCPU);
  EXPECT_EQ(host_reads_of_a_step(plain, p, scaler, false), 2);  // item and what it calls
}

}  // namespace
}  // namespace mezzo
