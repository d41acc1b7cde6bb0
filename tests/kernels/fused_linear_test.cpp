#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/memory.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr double kEps = 1e-5;
// Between two fp64 programs that differ in the order of a few hundred operations on numbers near 1.
const double kFp64Tolerance = tolerance_for(at::kDouble, 512, 64.0);

const Random random(3);

/// All inputs of residual_norm_linear; residual_rms_norm_linear takes no norm_bias.
struct Inputs {
  explicit Inputs(at::ScalarType stream, at::ScalarType product, at::Device device = at::kCPU)
      : x(random.leaf({3, 5, 24}, stream, device)),
        branch(random.leaf({3, 5, 24}, product, device)),
        norm_weight(random.leaf({24}, stream, device)),
        norm_bias(random.leaf({24}, stream, device)),
        weight(random.leaf({40, 24}, product, device)),
        bias(random.leaf({40}, stream, device)) {}
  std::vector<at::Tensor> all() const { return {x, branch, norm_weight, norm_bias, weight, bias}; }
  std::vector<at::Tensor> without_norm_bias() const {
    return {x, branch, norm_weight, weight, bias};
  }
  at::Tensor x, branch, norm_weight, norm_bias, weight, bias;
};

/// Gradients of the inputs, for fixed gradients of both outputs.
std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& inputs, const at::Tensor& sum,
                                  const at::Tensor& y) {
  const auto ramp = [](const at::Tensor& like) {
    return at::linspace(-1, 1, like.numel(), at::kDouble).view(like.sizes()).to(like.options());
  };
  return torch::autograd::grad({sum, y}, inputs, {ramp(sum), ramp(y)});
}

class ResidualNormLinearOn : public mezzo::testing::OnDevice<> {};

TEST_P(ResidualNormLinearOn, IsItsOpsOneAfterTheOther) {
  const Inputs in(at::kDouble, at::kDouble, device);
  const auto [sum, y] = residual_norm_linear(in.x, in.branch, in.norm_weight, in.norm_bias,
                                             in.weight, in.bias, kEps, /*recompute=*/true);
  const at::Tensor plain_sum = in.x.cpu() + in.branch.cpu();
  const at::Tensor plain_norm =
      at::layer_norm(plain_sum, {24}, in.norm_weight.cpu(), in.norm_bias.cpu(), kEps);
  const at::Tensor plain_y = at::linear(plain_norm, in.weight.cpu(), in.bias.cpu());
  EXPECT_CLOSE(here(sum), plain_sum, 0.0);
  EXPECT_CLOSE(here(y), plain_y, kFp64Tolerance);
  const auto got = gradients(in.all(), sum, y), want = gradients(in.all(), plain_sum, plain_y);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_CLOSE(got[i], want[i], kFp64Tolerance) << i;
}

TEST_P(ResidualNormLinearOn, RecomputesToTheSameBits) {
  const Inputs in(at::kFloat, at::kBFloat16, device);
  std::vector<std::vector<at::Tensor>> results;
  for (const bool recompute : {false, true}) {
    const auto [sum, y] = residual_norm_linear(in.x, in.branch, in.norm_weight, in.norm_bias,
                                               in.weight, in.bias, kEps, recompute);
    EXPECT_EQ(sum.scalar_type(), at::kFloat);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    results.push_back(gradients(in.all(), sum, y));
    results.back().push_back(y);
  }
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_BIT_EQUAL(results[1][i], results[0][i]);
}

TEST_P(ResidualNormLinearOn, GradientsHaveTheDtypesOfTheInputs) {
  const Inputs in(at::kFloat, at::kHalf, device);
  const auto [sum, y] = residual_norm_linear(in.x, in.branch, in.norm_weight, in.norm_bias,
                                             in.weight, in.bias, kEps, true);
  const auto grads = gradients(in.all(), sum, y);
  for (size_t i = 0; i < grads.size(); ++i)
    EXPECT_EQ(grads[i].scalar_type(), in.all()[i].scalar_type()) << i;
}

TEST_P(ResidualNormLinearOn, PassesTheGradientOfTheSumAlone) {
  const Inputs in(at::kFloat, at::kBFloat16, device);
  const auto [sum, y] = residual_norm_linear(in.x, in.branch, in.norm_weight, in.norm_bias,
                                             in.weight, in.bias, kEps, true);
  sum.backward(at::full_like(sum, 3.0));
  EXPECT_BIT_EQUAL(in.x.grad(), at::full_like(sum, 3.0).detach());
  EXPECT_BIT_EQUAL(in.branch.grad(), at::full_like(in.branch, 3.0).detach());
}

TEST_P(ResidualNormLinearOn, GoesWithoutBranchAndBiases) {
  const Inputs in(at::kDouble, at::kDouble, device);
  const auto [sum, y] = residual_norm_linear(in.x, std::nullopt, in.norm_weight, std::nullopt,
                                             in.weight, std::nullopt, kEps, true);
  const at::Tensor plain =
      at::linear(at::layer_norm(in.x.cpu(), {24}, in.norm_weight.cpu(), {}, kEps), in.weight.cpu());
  EXPECT_CLOSE(y, plain, kFp64Tolerance);
  const auto got = torch::autograd::grad({(y * y).sum()}, {in.x, in.norm_weight, in.weight});
  const auto want =
      torch::autograd::grad({(plain * plain).sum()}, {in.x, in.norm_weight, in.weight});
  for (size_t i = 0; i < got.size(); ++i) EXPECT_CLOSE(got[i], want[i], 64 * kFp64Tolerance) << i;
}

INSTANTIATE_TEST_SUITE_P(Devices, ResidualNormLinearOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

class ResidualRmsNormLinearOn : public mezzo::testing::OnDevice<> {};

TEST_P(ResidualRmsNormLinearOn, IsItsOpsOneAfterTheOther) {
  const Inputs in(at::kDouble, at::kDouble, device);
  const auto [sum, y] = residual_rms_norm_linear(in.x, in.branch, in.norm_weight, in.weight,
                                                 in.bias, kEps, /*recompute=*/true);
  const at::Tensor plain_sum = in.x.cpu() + in.branch.cpu();
  const at::Tensor plain_norm = at::rms_norm(plain_sum, {24}, in.norm_weight.cpu(), kEps);
  const at::Tensor plain_y = at::linear(plain_norm, in.weight.cpu(), in.bias.cpu());
  EXPECT_CLOSE(here(sum), plain_sum, 0.0);
  EXPECT_CLOSE(here(y), plain_y, kFp64Tolerance);
  const auto got = gradients(in.without_norm_bias(), sum, y),
             want = gradients(in.without_norm_bias(), plain_sum, plain_y);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_CLOSE(got[i], want[i], kFp64Tolerance) << i;
}

TEST_P(ResidualRmsNormLinearOn, RecomputesToTheSameBitsAndGivesEachGradientItsDtype) {
  const Inputs in(at::kFloat, at::kBFloat16, device);
  std::vector<std::vector<at::Tensor>> results;
  for (const bool recompute : {false, true}) {
    const auto [sum, y] = residual_rms_norm_linear(in.x, in.branch, in.norm_weight, in.weight,
                                                   in.bias, kEps, recompute);
    EXPECT_EQ(sum.scalar_type(), at::kFloat);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    results.push_back(gradients(in.without_norm_bias(), sum, y));
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_BIT_EQUAL(results[1][i], results[0][i]);
    EXPECT_EQ(results[0][i].scalar_type(), in.without_norm_bias()[i].scalar_type()) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, ResidualRmsNormLinearOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(ResidualRmsNormLinear, KeepsTheSumAndOneNumberARowWhereItRecomputes) {
  const at::Tensor x = random.leaf({64, 24}, at::kFloat),
                   branch = random.leaf({64, 24}, at::kBFloat16), ones = at::ones({24}),
                   weight = random.leaf({9, 24}, at::kBFloat16);
  const TensorMemoryMeter meter;
  const auto [sum, y] =
      residual_rms_norm_linear(x, branch, ones, weight, std::nullopt, kEps, /*recompute=*/true);
  EXPECT_EQ(meter.current_bytes() - static_cast<int64_t>(sum.nbytes() + y.nbytes()), 64 * 4);
}

TEST(ResidualNormLinear, RefusesASecondDifferentiation) {
  const Inputs in(at::kFloat, at::kFloat);
  const auto [sum, y] = residual_norm_linear(in.x, in.branch, in.norm_weight, in.norm_bias,
                                             in.weight, in.bias, kEps, true);
  EXPECT_THROW_WITH(torch::autograd::grad({y.sum()}, {in.x}, {}, true, /*create_graph=*/true),
                    "[residual_norm_linear] its gradient cannot be differentiated again");
  const auto [rms_sum, rms_y] =
      residual_rms_norm_linear(in.x, in.branch, in.norm_weight, in.weight, in.bias, kEps, true);
  EXPECT_THROW_WITH(torch::autograd::grad({rms_y.sum()}, {in.x}, {}, true, /*create_graph=*/true),
                    "[residual_rms_norm_linear] its gradient cannot be differentiated again");
}

class AttentionLinear : public ::testing::TestWithParam<at::ScalarType> {};

// The same kernels but for the bias's gradient; libtorch's layouts in between cost no rounding.
TEST_P(AttentionLinear, IsAttentionThenLinear) {
  const CpuKernels kernels;
  const at::ScalarType dtype = GetParam();
  const at::Tensor qkv = random.leaf({2, 33, 3 * 24}, dtype), weight = random.leaf({9, 24}, dtype),
                   bias = random.leaf({9}, dtype), grad = random.leaf({2, 33, 9}, dtype).detach();
  const at::Tensor y = attention_linear(qkv, 3, weight, bias);
  const at::Tensor plain = reference::attention_linear(qkv, 3, weight, bias);
  EXPECT_BIT_EQUAL(y, plain);
  const auto got = torch::autograd::grad({y}, {qkv, weight, bias}, {grad});
  const auto want = torch::autograd::grad({plain}, {qkv, weight, bias}, {grad});
  EXPECT_BIT_EQUAL(got[0], want[0]);
  EXPECT_BIT_EQUAL(got[1], want[1]);
  // Two sums of 66 numbers, each rounded to the dtype.
  const double sum = grad.to(at::kDouble).abs().sum(c10::IntArrayRef{0, 1}).max().item<double>();
  EXPECT_CLOSE(got[2], want[2], 2 * tolerance_for(dtype, 66, sum));
}

INSTANTIATE_TEST_SUITE_P(Types, AttentionLinear,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& param) { return c10::toString(param.param); });

class AttentionLinearOn : public mezzo::testing::OnDevice<> {};

TEST_P(AttentionLinearOn, IsAttentionThenLinearInFp64) {
  const at::Tensor qkv = random.leaf({2, 33, 3 * 24}, at::kDouble, device),
                   weight = random.leaf({9, 24}, at::kDouble, device),
                   bias = random.leaf({9}, at::kDouble, device),
                   grad = random.leaf({2, 33, 9}, at::kDouble).detach();
  const at::Tensor y = attention_linear(qkv, 3, weight, bias);
  const at::Tensor plain = reference::attention_linear(qkv.cpu(), 3, weight.cpu(), bias.cpu());
  EXPECT_CLOSE(here(y), plain, kFp64Tolerance);
  const auto got = torch::autograd::grad({y}, {qkv, weight, bias}, {there(grad)});
  const auto want = torch::autograd::grad({plain}, {qkv, weight, bias}, {grad});
  for (size_t i = 0; i < got.size(); ++i) EXPECT_CLOSE(got[i], want[i], 64 * kFp64Tolerance) << i;
}

INSTANTIATE_TEST_SUITE_P(Devices, AttentionLinearOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(AttentionLinear, GoesWithoutABiasAndWithStridedInput) {
  const at::Tensor qkv = random.leaf({2, 5, 31}, at::kFloat),
                   weight = random.leaf({9, 8}, at::kFloat);
  const at::Tensor part = qkv.slice(2, 4, 28);
  EXPECT_BIT_EQUAL(attention_linear(part, 2, weight, {}),
                   attention_linear(part.contiguous(), 2, weight, {}));
}

TEST(AttentionLinear, OfAnEmptyBatchIsEmptyAndItsGradientsAreZero) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor qkv = random.leaf({0, 5, 24}, dtype), weight = random.leaf({9, 8}, dtype),
                     bias = random.leaf({9}, dtype);
    const at::Tensor y = attention_linear(qkv, 2, weight, bias);
    EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 5, 9}));
    y.sum().backward();
    EXPECT_EQ(qkv.grad().sizes(), qkv.sizes());
    EXPECT_BIT_EQUAL(weight.grad(), at::zeros({9, 8}, dtype));
    EXPECT_BIT_EQUAL(bias.grad(), at::zeros({9}, dtype));
  }
}

TEST(AttentionLinear, RefusesChannelsThatHeadsDoNotDivide) {
  const at::Tensor x = at::ones({1, 2, 24}), weight = at::ones({4, 8});
  EXPECT_THROW_WITH(attention_linear(x, 3, weight, {}), "C a multiple of the 3 heads");
}

/// The two ops that end an MLP, and what they are made of.
struct ActivationCase {
  const char* name;
  int64_t inputs;  // to a channel of the linear layer
  at::Tensor (*op)(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, bool);
  at::Tensor (*plain)(const at::Tensor&);
};

const ActivationCase kActivations[] = {
    {"Gelu", 1, gelu_linear, [](const at::Tensor& x) { return at::gelu(x, "tanh"); }},
    {"Swiglu", 2, swiglu_linear,
     [](const at::Tensor& x) { return at::silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]; }}};

class ActivationLinear : public mezzo::testing::OnDevice<ActivationCase> {};

class ActivationLinearOnCpu : public ::testing::TestWithParam<ActivationCase> {};

TEST_P(ActivationLinear, IsTheActivationThenLinear) {
  const auto& [name, inputs, op, activation] = GetParam();
  const at::Tensor x = random.leaf({2, 7, inputs * 24}, at::kDouble, device),
                   weight = random.leaf({9, 24}, at::kDouble, device),
                   bias = random.leaf({9}, at::kDouble, device);
  const at::Tensor y = op(x, weight, bias, true);
  const at::Tensor plain = at::linear(activation(x.cpu()), weight.cpu(), bias.cpu());
  EXPECT_CLOSE(here(y), plain, kFp64Tolerance);
  const auto got = torch::autograd::grad({y.square().sum()}, {x, weight, bias});
  const auto want = torch::autograd::grad({plain.square().sum()}, {x, weight, bias});
  for (size_t i = 0; i < got.size(); ++i) EXPECT_CLOSE(got[i], want[i], 64 * kFp64Tolerance) << i;
}

TEST_P(ActivationLinear, RecomputesToTheSameBits) {
  const at::Tensor x = random.leaf({33, GetParam().inputs * 24}, at::kBFloat16, device),
                   weight = random.leaf({9, 24}, at::kBFloat16, device),
                   bias = random.leaf({9}, at::kFloat, device);
  std::vector<std::vector<at::Tensor>> results;
  for (const bool recompute : {false, true}) {
    const at::Tensor y = GetParam().op(x, weight, bias, recompute);
    results.push_back(torch::autograd::grad({y.to(at::kFloat).sum()}, {x, weight, bias}));
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_BIT_EQUAL(results[1][i], results[0][i]);
  EXPECT_EQ(results[0][2].scalar_type(), at::kFloat);
}

TEST_P(ActivationLinear, OfNoChannelsIsTheBias) {
  const at::Tensor x = random.leaf({2, 3, 0}, at::kFloat, device),
                   weight = random.leaf({4, 0}, at::kFloat, device),
                   bias = random.leaf({4}, at::kFloat, device);
  const at::Tensor y = GetParam().op(x, weight, bias, true);
  EXPECT_BIT_EQUAL(here(y), here(bias).expand({2, 3, 4}));
  y.sum().backward();
  EXPECT_EQ(x.grad().sizes(), x.sizes());
  EXPECT_EQ(weight.grad().sizes(), weight.sizes());
  EXPECT_BIT_EQUAL(here(bias.grad()), at::full({4}, 6.0f));
}

TEST_P(ActivationLinearOnCpu, KeepsWhatItReadAndNoMoreWhereItRecomputes) {
  const at::Tensor x = random.leaf({64, GetParam().inputs * 24}, at::kBFloat16),
                   weight = random.leaf({24, 24}, at::kBFloat16);
  const auto kept_bytes = [&](bool recompute) {
    const TensorMemoryMeter meter;
    const at::Tensor y = GetParam().op(x, weight, std::nullopt, recompute);
    return meter.current_bytes() - static_cast<int64_t>(y.nbytes());
  };
  EXPECT_EQ(kept_bytes(true), 0);
  EXPECT_EQ(kept_bytes(false), 64 * 24 * 2);
}

std::string activation_name(const ::testing::TestParamInfo<ActivationCase>& param) {
  return param.param.name;
}

INSTANTIATE_TEST_SUITE_P(All, ActivationLinear,
                         mezzo::testing::on_devices(::testing::ValuesIn(kActivations)),
                         mezzo::testing::device_and(activation_name));
INSTANTIATE_TEST_SUITE_P(All, ActivationLinearOnCpu, ::testing::ValuesIn(kActivations),
                         activation_name);

// libtorch's autocast has no kernel for the fused ops: it casts the linear layers inside them.
TEST(FusedLinear, TakesLibtorchsOwnAutocastForwardAndBackward) {
  const at::Tensor x = random.leaf({33, 24}, at::kFloat), weight = random.leaf({9, 24}, at::kFloat),
                   bias = random.leaf({9}, at::kFloat);
  const at::Tensor grad = random.leaf({33, 9}, at::kBFloat16).detach();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor y = gelu_linear(x, weight, bias, /*recompute=*/true);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  const auto got = torch::autograd::grad({y}, {x, weight, bias}, {grad});

  const at::Tensor active = tanh_gelu(x.detach()).to(at::kBFloat16);
  const at::Tensor grad_active = at::mm(grad, weight.detach().to(at::kBFloat16));
  EXPECT_BIT_EQUAL(got[0], tanh_gelu_backward(grad_active.to(at::kFloat), x.detach()));
  EXPECT_BIT_EQUAL(got[1], at::mm(grad.t(), active).to(at::kFloat));
  EXPECT_EQ(got[2].scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace mezzo::kernels
