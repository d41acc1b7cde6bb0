// The ways to use a gradient scaler that PyTorch's own tests walk through. What is right is what
// torch.amp.GradScaler did in Python (tests/reference/make_scaler_goldens.py), on the same nets and
// numbers.

#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/sgd.h>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/base/check.h"
#include "tests/amp/expect_state.h"
#include "tests/amp/fused_sgd.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

using nlohmann::json;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kInfAt = 2;

json golden() {
  std::ifstream file(MEZZO_TEST_DATA "/grad_scaler_usage.json");
  return json::parse(file);
}

// ---- Small trainings.

struct Net {
  explicit Net(int64_t offset) {
    const at::Tensor row = at::arange(4).view({4, 1}), column = at::arange(3);
    hidden = (((3 * row + column + offset) % 5 - 2).to(at::kFloat) / 4).requires_grad_();
    out = at::tensor({0.5f, -0.25f * static_cast<float>(offset + 1), 0.75f}).requires_grad_();
  }
  at::Tensor operator()(const at::Tensor& x) const {
    return at::matmul(at::tanh(at::matmul(x, hidden)), out);
  }
  std::vector<at::Tensor> parameters() const { return {hidden, out}; }

  at::Tensor hidden, out;
};

std::vector<at::Tensor> parameters_of(const std::vector<Net>& nets) {
  std::vector<at::Tensor> all;
  for (const Net& net : nets) {
    for (const at::Tensor& parameter : net.parameters()) all.push_back(parameter);
  }
  return all;
}

at::Tensor inputs_at(int64_t step) {
  const at::Tensor row = at::arange(2).view({2, 1}), column = at::arange(4);
  return ((7 * step + 4 * row + column) % 9 - 4).to(at::kFloat) / 4;
}

at::Tensor targets_at(int64_t step) { return at::tensor({static_cast<float>(step % 3 - 1), 0.5f}); }

void poison(const Net& net, int64_t step) {
  if (step == kInfAt) net.hidden.mutable_grad()[0][0] = kInf;
}

// Leaves scaled gradients; returns the losses.
using Backward =
    std::function<std::vector<at::Tensor>(GradScaler&, const std::vector<Net>&, int64_t step)>;

std::vector<at::Tensor> one_loss(GradScaler& scaler, const std::vector<Net>& nets, int64_t step) {
  const at::Tensor loss = at::mse_loss(nets[0](inputs_at(step)), targets_at(step));
  scaler.scale(loss).backward();
  return {loss};
}

std::vector<at::Tensor> two_losses(GradScaler& scaler, const std::vector<Net>& nets, int64_t step) {
  const at::Tensor x = inputs_at(step), y = targets_at(step);
  const at::Tensor a = nets[0](x), b = nets[1](x);
  const at::Tensor first = at::mse_loss(a + b / 2, y), second = at::mse_loss(a / 2 - b, y);
  scaler.scale(first).backward({}, /*retain_graph=*/true);
  scaler.scale(second).backward();
  return {first, second};
}

std::vector<at::Tensor> accumulated(GradScaler& scaler, const std::vector<Net>& nets,
                                    int64_t step) {
  const at::Tensor x = inputs_at(step), y = targets_at(step);
  const at::Tensor first = at::mse_loss(nets[0](x), y) / 2;
  const at::Tensor second = at::mse_loss(nets[0](-x), y) / 2;
  scaler.scale(first).backward();
  scaler.scale(second).backward();
  return {first, second};
}

std::vector<at::Tensor> penalized(GradScaler& scaler, const std::vector<Net>& nets, int64_t step) {
  at::Tensor loss = at::mse_loss(nets[0](inputs_at(step)), targets_at(step));
  const auto scaled_grads =
      torch::autograd::grad({scaler.scale(loss)}, nets[0].parameters(), {},
                            /*retain_graph=*/std::nullopt, /*create_graph=*/true);
  at::Tensor sum = at::zeros({});
  for (const at::Tensor& grad : scaled_grads) {
    sum = sum + (grad * (1.0 / scaler.get_scale())).pow(2).sum();
  }
  loss = loss + sum.sqrt();
  scaler.scale(loss).backward();
  return {loss};
}

struct Training {
  const char* name;
  Backward backward = one_loss;
  int64_t nets = 1;
  bool is_fused = false;
  bool unscales = false;  // the first optimizer, before its step
  std::function<void(GradScaler&, const Net&)> clip = nullptr;
  std::function<void(GradScaler&, int64_t step)> update = nullptr;
};

std::ostream& operator<<(std::ostream& out, const Training& training) {
  return out << training.name;
}

std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers_of(const std::vector<Net>& nets,
                                                                    bool is_fused, double lr) {
  std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers;
  for (const Net& net : nets) {
    if (is_fused) {
      optimizers.push_back(std::make_unique<testing::FusedSgd>(net.parameters(), lr));
    } else {
      optimizers.push_back(std::make_unique<torch::optim::SGD>(net.parameters(), lr));
    }
  }
  return optimizers;
}

void expect_step(const json& expected, const std::vector<at::Tensor>& losses,
                 const GradScaler& scaler, const std::vector<Net>& nets) {
  EXPECT_EQ(scaler.get_scale(), expected["scale"].get<double>());
  EXPECT_EQ(scaler.get_growth_tracker(), expected["growth_tracker"].get<int64_t>());
  // A step is a chain of some 25 roundings of 2^-24 forward and back, and there are 5 of them, each
  // carrying the error of the last along; the numbers are of size 1. The kernels may differ with
  // the machine.
  const double tolerance = 5 * 25 * 0x1p-24 * 2;
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_CLOSE(losses[i].detach(), at::full({}, expected["losses"][i].get<double>(), at::kDouble),
                 tolerance);
  }
  const std::vector<at::Tensor> parameters = parameters_of(nets);
  ASSERT_EQ(parameters.size(), expected["weights"].size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto weights = expected["weights"][i].get<std::vector<double>>();
    EXPECT_CLOSE(parameters[i].detach().flatten(), at::tensor(weights, at::kDouble), tolerance);
  }
}

class GradScalerUsage : public ::testing::TestWithParam<Training> {};

TEST_P(GradScalerUsage, TrainsAsTorchAmpDoesInPython) {
  const Training& training = GetParam();
  const json all = golden();
  const json& expected = all["trainings"][training.name];
  std::vector<Net> nets;
  for (int64_t i = 0; i < training.nets; ++i) nets.emplace_back(i);
  const auto optimizers = optimizers_of(nets, training.is_fused, all["lr"]);
  GradScaler scaler(at::kCPU, {.init_scale = 128.0, .growth_interval = 1});
  ASSERT_EQ(expected.size(), 5u);
  for (int64_t step = 0; step < 5; ++step) {
    SCOPED_TRACE(step);
    for (const auto& optimizer : optimizers) optimizer->zero_grad();
    const std::vector<at::Tensor> losses = training.backward(scaler, nets, step);
    poison(nets.back(), step);
    if (training.unscales) scaler.unscale_(*optimizers[0]);
    if (training.clip) training.clip(scaler, nets[0]);
    for (size_t i = 0; i < optimizers.size(); ++i) {
      const bool is_poisoned = step == kInfAt && i + 1 == optimizers.size();
      EXPECT_EQ(scaler.step(*optimizers[i]).stepped(), !is_poisoned);
    }
    if (training.update) {
      training.update(scaler, step);
    } else {
      scaler.update();
    }
    expect_step(expected[step], losses, scaler, nets);
  }
}

void clip_unscaled(GradScaler&, const Net& net) {
  torch::nn::utils::clip_grad_norm_(net.parameters(), 0.1);
}

void clip_scaled(GradScaler& scaler, const Net& net) {
  torch::nn::utils::clip_grad_norm_(net.parameters(), 0.1 * scaler.get_scale());
}

void update_to_given_scales(GradScaler& scaler, int64_t step) {
  if (step == 1) {
    scaler.update(32.0);
  } else if (step == 3) {
    scaler.update(at::full({}, 1024.0));
  } else {
    scaler.update();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ways, GradScalerUsage,
    ::testing::Values(
        Training{.name = "plain"}, Training{.name = "unscale", .unscales = true},
        Training{.name = "clip_scaled", .clip = clip_scaled},
        Training{.name = "clip_unscaled", .unscales = true, .clip = clip_unscaled},
        Training{.name = "accumulate", .backward = accumulated},
        Training{.name = "penalty", .backward = penalized},
        Training{.name = "two_models", .backward = two_losses, .nets = 2, .unscales = true},
        Training{.name = "new_scale", .update = update_to_given_scales},
        Training{.name = "fused", .is_fused = true},
        Training{.name = "fused_unscale", .is_fused = true, .unscales = true}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(GradScalerUsage, EveryTrainingOfTheGoldenIsRun) {
  EXPECT_EQ(golden()["trainings"].size(), 10u);
}

// ---- Sparse gradients.

TEST(GradScalerUsage, SparseGradientsAreUnscaledAndCheckedAsTorchAmpDoes) {
  const json cases = golden()["sparse"];
  ASSERT_EQ(cases.size(), 6u);
  for (const auto& [name, expected] : cases.items()) {
    const auto dtype = expected["dtype"] == "float16" ? at::kHalf : at::kFloat;
    std::vector<double> values;
    for (const auto& value : expected["values"])
      values.push_back(std::stod(value.get<std::string>()));
    const at::Tensor parameter = at::zeros({4}, dtype).requires_grad_();
    parameter.mutable_grad() = at::sparse_coo_tensor(
        at::tensor(expected["indices"].get<std::vector<int64_t>>()).view({1, -1}),
        at::tensor(values, at::kDouble).to(dtype), {4});
    torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter}, 0.125);
    GradScaler scaler(at::kCPU, {.init_scale = 128.0, .allow_fp16_grads = true});
    scaler.scale(at::ones({}));
    scaler.unscale_(optimizer);
    EXPECT_EQ(scaler.found_inf(optimizer), expected["found_inf"] == 1.0) << name;
    if (expected["unscaled"].is_null()) continue;
    const auto unscaled = expected["unscaled"].get<std::vector<double>>();
    // 128 is a power of two: exact.
    EXPECT_CLOSE(parameter.grad().to_dense(), at::tensor(unscaled, at::kDouble), 0.0) << name;
  }
}

// ---- The order of calls.

bool succeeds(const std::string& word, bool is_fused, bool has_grad) {
  const at::Tensor parameter = at::ones({2}).requires_grad_();
  if (has_grad) parameter.mutable_grad() = at::ones({2});
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  if (is_fused) {
    optimizer = std::make_unique<testing::FusedSgd>(std::vector<at::Tensor>{parameter}, 0.125);
  } else {
    optimizer = std::make_unique<torch::optim::SGD>(std::vector<at::Tensor>{parameter}, 0.125);
  }
  GradScaler scaler(at::kCPU, {.init_scale = 4.0});
  const auto call = [&](char symbol) {
    if (symbol == 's') scaler.scale(at::ones({}));
    if (symbol == 'u') scaler.unscale_(*optimizer);
    if (symbol == 'p') scaler.step(*optimizer);
    if (symbol == 'c') scaler.step(*optimizer, [] { return at::Tensor(); });
    if (symbol == 'U') scaler.update();
  };
  for (size_t i = 0; i + 1 < word.size(); ++i) call(word[i]);
  try {
    call(word.back());
  } catch (const Error&) {
    return false;
  }
  return true;
}

TEST(GradScalerUsage, EveryOrderOfCallsIsAnErrorHereIfItIsOneInPython) {
  const json all = golden()["orders"];
  ASSERT_EQ(all.size(), 4u);
  for (const auto& orders : all) {
    ASSERT_GE(orders["words"].size(), 20u);
    for (const auto& [word, expected] : orders["words"].items()) {
      EXPECT_EQ(succeeds(word, orders["fused"], orders["has_grad"]), expected.get<bool>())
          << word << (orders["fused"] ? ", fused" : "")
          << (orders["has_grad"] ? "" : ", without gradients");
    }
  }
}

TEST(GradScalerUsage, RefusesTheFactorsThatTorchAmpRefuses) {
  const json refused = golden()["refused"];
  ASSERT_EQ(refused.size(), 4u);
  for (const json& arguments : refused) {
    GradScalerOptions options;
    options.growth_factor = arguments.value("growth_factor", 2.0);
    options.backoff_factor = arguments.value("backoff_factor", 0.5);
    EXPECT_THROW_WITH(GradScaler(at::kCPU, options), "factor must be");
  }
}

// ---- The state dict.

GradScalerState state_from(const json& j) {
  return {j["scale"], j["growth_factor"], j["backoff_factor"], j["growth_interval"],
          j["_growth_tracker"]};
}

void expect_state(const GradScaler& scaler, const json& expected) {
  testing::expect_state(scaler.state_dict().value(), state_from(expected));
}

TEST(GradScalerUsage, StateDictIsThatOfTorchAmpBeforeAndAfterTheFirstScale) {
  const json states = golden()["states"];
  ASSERT_EQ(states.size(), 8u);
  const at::Tensor parameter = at::ones({2}).requires_grad_();
  torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter}, 0.125);
  const auto step = [&](GradScaler& scaler) {
    scaler.scale(parameter.sum()).backward();
    scaler.step(optimizer);
    scaler.update();
  };
  GradScaler scaler(at::kCPU, {.init_scale = 2.0, .growth_interval = 3});
  expect_state(scaler, states[0]);
  scaler.scale(at::ones({}));
  expect_state(scaler, states[1]);
  step(scaler);
  expect_state(scaler, states[2]);
  step(scaler);
  expect_state(scaler, states[3]);
  GradScaler other(at::kCPU);
  other.load_state_dict(state_from(states[3]));
  expect_state(other, states[4]);
  step(other);
  expect_state(other, states[5]);
  other.load_state_dict(state_from(states[3]));
  expect_state(other, states[6]);
  step(other);
  expect_state(other, states[7]);
}

}  // namespace
}  // namespace mezzo
