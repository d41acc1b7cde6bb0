// The kernels for a GPU, within the bounds of the CPU's loops around the same fp64 reference. They
// run on a GPU where there is one, beside the tests that both have in common (tests/devices.h); and
// everywhere else compiled for the CPU (tests/emulated_gpu/), in a program of their own,
// gpu_kernels_test.

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/format.h>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/exponent_counts/exponent_counts.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/grad_check/grad_check.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/rope/rotate.h"
#include "mezzo/kernels/swiglu/swiglu.h"
#include "tests/close.h"
#include "tests/kernels/rope_bound.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

#ifdef MEZZO_EMULATED_GPU
namespace tested = cuda;
constexpr bool kIsEmulated = true;
#else
namespace tested = kernels;
constexpr bool kIsEmulated = false;
#endif

constexpr double kEps = 1e-5;

/// Whether kernels for a GPU can run here.
bool has_gpu() { return kIsEmulated || (kHasCuda && at::hasCUDA()); }

at::Tensor on_gpu(const at::Tensor& x) { return kIsEmulated ? x.clone() : x.cuda(); }

const Random random(5);

at::Tensor exact(const at::Tensor& x) { return x.defined() ? x.cpu().to(at::kDouble) : x; }

std::string name_of(at::ScalarType dtype) {
  return dtype == at::kFloat ? "fp32" : dtype == at::kBFloat16 ? "bf16" : "fp16";
}

class TwinTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

template <class Case>
class TwinTestOf : public TwinTest, public ::testing::WithParamInterface<Case> {};

const auto kDtypes = ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf);

/// Stream and output.
using Streams = std::tuple<at::ScalarType, at::ScalarType>;

class NormTwin : public TwinTestOf<std::tuple<Streams, NormKind, int64_t>> {
 protected:
  static double bound(at::ScalarType dtype, int64_t fp32_roundings, double magnitude) {
    return tolerance_for(at::kFloat, fp32_roundings, magnitude) +
           tolerance_for(dtype, 1, magnitude);
  }
};

TEST_P(NormTwin, StaysWithinTheBoundOfFp64) {
  const auto [streams, kind, C] = GetParam();
  const auto [stream, out] = streams;
  const int64_t rows = 19;  // several for each of the backward pass's blocks, also when emulated
  const at::Tensor x = random({rows, C}, stream), branch = random({rows, C}, out),
                   weight = random({C}, at::kFloat), bias = random({C}, at::kFloat),
                   grad = random({rows, C}, out), grad_sum = random({rows, C}, stream);
  const ResidualNorm got = tested::residual_norm(on_gpu(x), on_gpu(branch), on_gpu(weight),
                                                 on_gpu(bias), kEps, out, kind);
  EXPECT_BIT_EQUAL(got.sum.cpu(), (x + branch).to(stream));
  const at::Tensor leaf = exact(got.sum).requires_grad_(), w = exact(weight).requires_grad_(),
                   b = exact(bias).requires_grad_();
  const at::Tensor want = kind == NormKind::kLayer ? at::layer_norm(leaf, {C}, w, b, kEps)
                                                   : at::rms_norm(leaf, {C}, w, kEps) + b;
  const double magnitude =
      4 * mezzo::testing::magnitude_of(want.detach()) + mezzo::testing::magnitude_of(bias);
  EXPECT_CLOSE(got.normed.cpu(), want.detach(), bound(out, C + 4, magnitude));
  EXPECT_BIT_EQUAL(
      tested::norm_again(got.sum, got.mean, got.rstd, on_gpu(weight), on_gpu(bias), out).cpu(),
      got.normed.cpu());

  ((want * exact(grad)).sum() + (leaf * exact(grad_sum)).sum()).backward();
  const ResidualNormGrads grads = tested::residual_norm_backward(
      on_gpu(grad), on_gpu(grad_sum), got.sum, got.mean, got.rstd, on_gpu(weight), on_gpu(bias),
      {.branch = true, .normed = true});
  EXPECT_BIT_EQUAL(grads.branch.cpu(), grads.x.cpu().to(out));
  EXPECT_BIT_EQUAL(grads.normed.cpu(), got.normed.cpu());
  const double terms = mezzo::testing::magnitude_of(exact(got.rstd)) *
                           mezzo::testing::magnitude_of(grad) *
                           mezzo::testing::magnitude_of(weight) * 16 +
                       mezzo::testing::magnitude_of(grad_sum);
  EXPECT_CLOSE(grads.x.cpu(), leaf.grad(), bound(stream, 2 * C + 8, terms));
  const double sums = 4 * mezzo::testing::magnitude_of(grad) * static_cast<double>(rows);
  EXPECT_CLOSE(grads.weight.cpu(), w.grad(), bound(at::kFloat, rows + C, sums));
  EXPECT_CLOSE(grads.bias.cpu(), b.grad(), bound(at::kFloat, rows, sums));
}

std::string norm_name(const ::testing::TestParamInfo<NormTwin::ParamType>& param) {
  const auto& [streams, kind, C] = param.param;
  return fmt::format("{}_{}_{}_{}", kind == NormKind::kLayer ? "layer" : "rms",
                     name_of(std::get<0>(streams)), name_of(std::get<1>(streams)), C);
}

const auto kStreams =
    ::testing::Values(Streams{at::kFloat, at::kFloat}, Streams{at::kFloat, at::kBFloat16},
                      Streams{at::kFloat, at::kHalf}, Streams{at::kBFloat16, at::kBFloat16},
                      Streams{at::kHalf, at::kHalf});

INSTANTIATE_TEST_SUITE_P(Twins, NormTwin,
                         ::testing::Combine(kStreams,
                                            ::testing::Values(NormKind::kLayer, NormKind::kRms),
                                            ::testing::Values(4, 256, 768, 1600, 8192)),
                         norm_name);

using NormTwinOnGpu = TwinTest;

TEST_F(NormTwinOnGpu, ABranchOfAnotherTypeIsNotRoundedBeforeTheSum) {
  const at::Tensor x = at::full({3, 64}, -1000.0, at::kHalf), branch = at::full({3, 64}, 66000.0),
                   ones = at::ones({64});
  const ResidualNorm got =
      tested::residual_norm(on_gpu(x), on_gpu(branch), on_gpu(ones), {}, kEps, at::kHalf);
  EXPECT_BIT_EQUAL(got.sum.cpu(), at::full({3, 64}, 65000.0, at::kHalf));
}

class RopeTwin : public TwinTestOf<std::tuple<at::ScalarType, RopePairs, int64_t>> {};

// Queries and keys in a packed [B, T, 3 C], and one number further on, turned back. Only the first,
// where half a head is a multiple of 4, is loaded several numbers at a time.
TEST_P(RopeTwin, StaysWithinTheBoundOfFp64) {
  const auto [dtype, pairs, D] = GetParam();
  const int64_t B = 2, T = 9, H = 11;
  const at::Tensor table = rope_table(T + 3, D);
  const at::Tensor packed = on_gpu(random({B, T, 3 * H * D}, dtype));
  for (const bool is_inverse : {false, true}) {
    const at::Tensor x = packed.narrow(2, is_inverse ? 1 : 0, 2 * H * D).unflatten(2, {2 * H, D});
    const at::Tensor got = tested::rotate_pairs(x, on_gpu(table), pairs, is_inverse).cpu();
    const at::Tensor want = reference::rotate_pairs(exact(x), table, pairs, is_inverse);
    EXPECT_EQ(got.scalar_type(), dtype);
    EXPECT_TRUE(mezzo::testing::is_within(got, want, rope_bound(dtype, pairs, exact(x), want)));
  }
}

std::string rope_name(const ::testing::TestParamInfo<RopeTwin::ParamType>& param) {
  const auto& [dtype, pairs, D] = param.param;
  return fmt::format("{}_{}_{}", name_of(dtype),
                     pairs == RopePairs::kHalves ? "halves" : "interleaved", D);
}

INSTANTIATE_TEST_SUITE_P(
    Twins, RopeTwin,
    ::testing::Combine(kDtypes, ::testing::Values(RopePairs::kHalves, RopePairs::kInterleaved),
                       ::testing::Values(2, 6, 64, 128)),
    rope_name);

class GateTwin : public TwinTestOf<at::ScalarType> {
 protected:
  static at::Tensor bound(at::ScalarType dtype, const at::Tensor& exact, const at::Tensor& terms) {
    const FloatFormat& format = float_format(dtype);
    // The GPU's short exponential and division, in results of 16 bits: 2^-16 of what is summed.
    const double rest = dtype == at::kFloat ? 0x1p-20 : 0x1p-14;
    return exact.abs() * (format.epsilon / 2) + terms.abs() * rest + format.smallest_subnormal;
  }
};

TEST_P(GateTwin, StaysWithinTheBoundOfFp64) {
  const at::ScalarType dtype = GetParam();
  const at::Tensor up = at::arange(-20.0, 4.0, 1.0 / 64).exp2();
  const at::Tensor x = at::cat({up, -up, at::zeros({3})}).to(dtype),
                   grad = random(x.sizes(), dtype);
  const at::Tensor leaf = exact(x).requires_grad_(), want = at::gelu(leaf, "tanh");
  (want * exact(grad)).sum().backward();
  const at::Tensor got = tested::tanh_gelu(on_gpu(x));
  at::Tensor again;
  EXPECT_TRUE(
      mezzo::testing::is_within(got.cpu(), want.detach(), bound(dtype, want.detach(), exact(x))));
  EXPECT_TRUE(
      mezzo::testing::is_within(tested::tanh_gelu_backward(on_gpu(grad), on_gpu(x), &again).cpu(),
                                leaf.grad(), bound(dtype, leaf.grad(), 2 * exact(grad))));
  EXPECT_BIT_EQUAL(again.cpu(), got.cpu());

  for (const int64_t C : {64, 33}) {
    const at::Tensor gate_up = random({57, 2 * C}, dtype), grad_y = random({57, C}, dtype);
    const at::Tensor both = exact(gate_up).requires_grad_();
    const at::Tensor y = at::silu(both.narrow(1, 0, C)) * both.narrow(1, C, C);
    (y * exact(grad_y)).sum().backward();
    const at::Tensor gated = tested::swiglu(on_gpu(gate_up));
    EXPECT_TRUE(
        mezzo::testing::is_within(gated.cpu(), y.detach(), bound(dtype, y.detach(), y.detach())));
    EXPECT_TRUE(mezzo::testing::is_within(
        tested::swiglu_backward(on_gpu(grad_y), on_gpu(gate_up), &again).cpu(), both.grad(),
        bound(dtype, both.grad(), at::full_like(both.grad(), 32.0))));
    EXPECT_BIT_EQUAL(again.cpu(), gated.cpu());
  }
}

INSTANTIATE_TEST_SUITE_P(Twins, GateTwin, kDtypes,
                         [](const auto& param) { return name_of(param.param); });

using GateTwinOnGpu = TwinTest;

TEST_F(GateTwinOnGpu, NaNInfAndZeroComeThroughAsOnTheCpu) {
  const at::Tensor x = at::tensor({NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, -1e30f}),
                   ones = at::ones_like(x);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    EXPECT_TRUE(at::equal(tested::tanh_gelu(on_gpu(x.to(dtype))).cpu().isnan(),
                          kernels::tanh_gelu(x.to(dtype)).isnan()));
    EXPECT_TRUE(at::equal(
        tested::tanh_gelu_backward(on_gpu(ones.to(dtype)), on_gpu(x.to(dtype))).cpu().isnan(),
        kernels::tanh_gelu_backward(ones.to(dtype), x.to(dtype)).isnan()));
  }
}

struct Head {
  int64_t V;
  double label_smoothing, z_loss;
};

class LossTwin : public TwinTestOf<std::tuple<at::ScalarType, Head>> {};

struct LossAndInputGradients {
  at::Tensor loss, x, weight;
};

/// Of three times the loss.
LossAndInputGradients loss_of(const at::Tensor& x, const at::Tensor& weight,
                              const at::Tensor& targets, const LinearCrossEntropyOptions& options) {
#ifdef MEZZO_EMULATED_GPU
  const LossAndGradients of =
      cuda::linear_cross_entropy(x, weight, targets, options, {.x = true, .weight = true});
  return {of.loss, of.grad_x * 3.0 * of.per_row, of.grad_weight * 3.0 * of.per_row};
#else
  const at::Tensor own_x = x.detach().requires_grad_(),
                   own_weight = weight.detach().requires_grad_();
  const at::Tensor loss = linear_cross_entropy(own_x, own_weight, targets, options);
  (loss * 3.0).backward();
  return {loss.detach(), own_x.grad(), own_weight.grad()};
#endif
}

TEST_P(LossTwin, LossAndGradientsStayWithinTheBoundOfFp64) {
  const auto [dtype, head] = GetParam();
  if (kIsEmulated && dtype != at::kFloat) GTEST_SKIP() << "a CPU has no product of 16 bits in fp32";
  const int64_t N = 300, C = 64, V = head.V;
  const LinearCrossEntropyOptions options{-100, head.label_smoothing, head.z_loss};
  const at::Tensor x = random({N, C}, at::kFloat).mul(0.5).to(dtype),
                   weight = random({V, C}, at::kFloat).mul(0.5).to(dtype);
  at::Tensor targets = at::arange(N).mul(7).remainder(V);
  targets.slice(0, 0, N, 5).fill_(-100);

  const at::Tensor x64 = exact(x).requires_grad_(), w64 = exact(weight).requires_grad_();
  const at::Tensor want = linear_cross_entropy(x64, w64, targets, options);
  (want * 3.0).backward();
  const LossAndInputGradients got = loss_of(on_gpu(x), on_gpu(weight), on_gpu(targets), options);

  // A logit is a sum of C products, rounded to the dtype; up to 16 here. The loss is a mean of
  // sums.
  const double of_logit = tolerance_for(at::kFloat, C, 16.0) + tolerance_for(dtype, 1, 16.0);
  EXPECT_NEAR(got.loss.item<double>(), want.item<double>(),
              (2.0 + 32.0 * head.z_loss) * of_logit + tolerance_for(at::kFloat, V, 8.0));
  // Each logit's gradient errs by that of its softmax, relative, and its rounding to the dtype; the
  // products sum V, or N, of them with factors of at most 2.5; the mean divides by 240, times 3.
  const auto compare = [&, dtype = dtype](const at::Tensor& own, const at::Tensor& reference,
                                          double terms) {
    const double per_term = 2.5 * (of_logit + float_format(dtype).epsilon);
    const double most = mezzo::testing::magnitude_of(reference);
    EXPECT_CLOSE(own.cpu(), reference,
                 3.0 / 240.0 * per_term * terms + tolerance_for(dtype, 2, most));
  };
  compare(got.x, x64.grad(), 2.0);  // a row's gradients sum to 2 in magnitude
  compare(got.weight, w64.grad(), 8.0);
}

std::string loss_name(const ::testing::TestParamInfo<LossTwin::ParamType>& param) {
  const auto& [dtype, head] = param.param;
  return fmt::format("{}_{}", name_of(dtype), head.V);
}

INSTANTIATE_TEST_SUITE_P(Twins, LossTwin,
                         ::testing::Combine(kDtypes, ::testing::Values(Head{20000, 0.0, 0.0},
                                                                       Head{3003, 0.1, 1e-3})),
                         loss_name);

using LossTwinOnGpu = TwinTest;

// No logit is such a target's; the row's gradient, and with it all of weight's, tells of it too.
TEST_F(LossTwinOnGpu, ATargetBesideTheVocabularyMakesLossAndGradientsNaN) {
  const at::Tensor x = on_gpu(random({4, 8}, at::kFloat)),
                   weight = on_gpu(random({16, 8}, at::kFloat));
  for (const int64_t beside : {-1, 16}) {
    const at::Tensor targets = on_gpu(at::tensor({int64_t{3}, beside, int64_t{-100}, int64_t{15}}));
    const LossAndInputGradients got = loss_of(x, weight, targets, {});
    EXPECT_TRUE(std::isnan(got.loss.item<double>())) << beside;
    EXPECT_TRUE(at::equal(got.x.isnan().all(1), targets.eq(beside))) << beside;
    EXPECT_TRUE(got.weight.isnan().all().item<bool>()) << beside;
  }
}

TEST_F(LossTwinOnGpu, OneLogitThatIsNaNMakesTheLossNaN) {
  const at::Tensor x = random({4, 8}, at::kFloat), weight = random({20000, 8}, at::kFloat);
  for (const int64_t row : {0, 9000, 19999}) {
    at::Tensor broken = weight.clone();
    broken[row][0] = NAN;
    const auto got = loss_of(on_gpu(x), on_gpu(broken), on_gpu(at::arange(1, 5)), {});
    EXPECT_TRUE(std::isnan(got.loss.item<double>())) << row;
  }
}

#ifndef MEZZO_EMULATED_GPU
TEST_F(LossTwinOnGpu, SeveralChunksAreSummedInFp32) {
  const int64_t N = 20000, C = 32, V = 50304;  // three chunks of bf16 logits
  const at::Tensor
      x = random({N, C}, at::kBFloat16).cuda().requires_grad_(),
      weight = random({V, C}, at::kFloat).mul(0.1).to(at::kBFloat16).cuda().requires_grad_();
  const at::Tensor targets = at::arange(N).mul(7).remainder(V).cuda();
  const at::Tensor loss = linear_cross_entropy(x, weight, targets);
  loss.backward();
  const at::Tensor wide = x.detach().to(at::kFloat).requires_grad_(),
                   wide_weight = weight.detach().to(at::kFloat).requires_grad_();
  const at::Tensor want = at::cross_entropy_loss(at::linear(wide, wide_weight), targets);
  want.backward();
  // Logits, below 4, are rounded to bf16: by 2^-7 at most, the target's and those of the sum. So
  // the softmax errs by 2^-7 of itself; its gradient and the results are rounded, by 2^-9 each.
  EXPECT_NEAR(loss.item<double>(), want.item<double>(), 0x1p-6);
  const double of_x = mezzo::testing::magnitude_of(wide.grad().cpu()),
               of_w = mezzo::testing::magnitude_of(wide_weight.grad().cpu());
  EXPECT_CLOSE(x.grad().cpu(), wide.grad().cpu(), 0x1p-6 * of_x);
  EXPECT_CLOSE(weight.grad().cpu(), wide_weight.grad().cpu(), 0x1p-6 * of_w);
}

TEST_F(LossTwinOnGpu, ANaNIsNotHiddenAndNoRowIsNaN) {
  at::Tensor x = random({4, 8}, at::kFloat).cuda();
  const at::Tensor weight = random({16, 8}, at::kFloat).cuda();
  const auto none = at::full({4}, -100, at::kLong).cuda();
  EXPECT_TRUE(linear_cross_entropy(x, weight, none).isnan().item<bool>());
  x[2][3] = NAN;
  EXPECT_TRUE(
      linear_cross_entropy(x, weight, at::zeros({4}, at::kLong).cuda()).isnan().item<bool>());
}

#endif

enum class Weight { kFp32, kSplit, kFp16 };

AdamWParam parameter(int64_t N, Weight kind, at::ScalarType grad, bool is_8bit) {
  AdamWParam p;
  p.weight = random({N}, kind == Weight::kFp32   ? at::kFloat
                         : kind == Weight::kFp16 ? at::kHalf
                                                 : at::kBFloat16);
  if (kind == Weight::kSplit) p.remainder = at::arange(N).mul(977).to(at::kShort);
  p.grad = random({N}, at::kFloat).mul(0.1).to(grad);
  p.exp_avg = at::zeros({N}, is_8bit ? at::kChar : at::kFloat);
  p.exp_avg_sq = at::zeros({N}, is_8bit ? at::kByte : at::kFloat);
  if (is_8bit) {
    p.exp_avg_scale = at::zeros({moment_blocks(N)}, at::kFloat);
    p.exp_avg_sq_scale = at::zeros({moment_blocks(N)}, at::kFloat);
  }
  return p;
}

std::vector<at::Tensor*> tensors_of(AdamWParam& p) {
  return {&p.weight,     &p.remainder,     &p.exp_avg,
          &p.exp_avg_sq, &p.exp_avg_scale, &p.exp_avg_sq_scale};
}

AdamWParam on_gpu(AdamWParam p) {
  for (at::Tensor* tensor : tensors_of(p))
    if (tensor->defined()) *tensor = on_gpu(*tensor);
  p.grad = on_gpu(p.grad);
  return p;
}

std::vector<AdamWParam> parameters() {
  std::vector<AdamWParam> all;
  for (const Weight kind : {Weight::kFp32, Weight::kSplit, Weight::kFp16})
    for (const at::ScalarType grad : {at::kFloat, at::kBFloat16, at::kHalf})
      for (const bool is_8bit : {false, true})
        for (const int64_t N : {1, 127, 8192 + 128, 20001})
          all.push_back(parameter(N, kind, grad, is_8bit));
  return all;
}

constexpr AdamWSettings kSettings{
    .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

using AdamWTwinOnGpu = TwinTest;

TEST_F(AdamWTwinOnGpu, GivesTheBitsOfTheCpu) {
  std::vector<AdamWParam> here = parameters(), there;
  for (const AdamWParam& p : here) there.push_back(on_gpu(p));
  for (uint32_t step = 1; step <= 3; ++step) {
    for (auto* params : {&here, &there})
      for (AdamWParam& p : *params) p.coefficients = adamw_coefficients(kSettings, step, 4.0f);
    kernels::adamw_(here);
    tested::adamw_(there);
  }
  for (size_t i = 0; i < here.size(); ++i) {
    for (size_t k = 0; k < tensors_of(here[i]).size(); ++k) {
      const at::Tensor &want = *tensors_of(here[i])[k], &got = *tensors_of(there[i])[k];
      if (!want.defined()) continue;
      EXPECT_BIT_EQUAL(got.cpu(), want) << "parameter " << i << ", tensor " << k;
    }
  }
}

TEST_F(AdamWTwinOnGpu, TakesStepRateScaleAndSkippingFromTheDevice) {
  if constexpr (kHasCuda || kIsEmulated) {
    const auto fp32 = at::TensorOptions(at::kFloat).device(kIsEmulated ? at::kCPU : at::kCUDA);
    AdamWParam here = parameter(5000, Weight::kFp32, at::kFloat, false), there = on_gpu(here);
    const at::Tensor step = at::full({}, 7.0, fp32), found_inf = at::ones({}, fp32);
    const AdamWOnDevice shared{kSettings, at::full({}, 1e-2, fp32), at::full({}, 4.0, fp32),
                               found_inf};
    const at::Tensor before = there.weight.clone();
    cuda::adamw_on_device_({there}, {step}, shared);
    EXPECT_TRUE(at::equal(there.weight, before));
    found_inf.zero_();
    cuda::adamw_on_device_({there}, {step}, shared);
    here.coefficients = adamw_coefficients({1e-2f, 0.9, 0.95, 1e-8, 0.1}, 7, 4.0f);
    kernels::adamw_({here});
    // An update of up to 0.1, its factors each a rounding apart.
    EXPECT_CLOSE(there.weight.cpu(), here.weight,
                 tolerance_for(at::kFloat, 4, mezzo::testing::magnitude_of(here.weight)));
  } else {
    GTEST_SKIP() << "no kernels for a GPU in this build";
  }
}

using ExponentCountsTwinOnGpu = TwinTest;

TEST_F(ExponentCountsTwinOnGpu, CountAsTheReference) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const int64_t N : {1, 7, 4096, 70001}) {
      at::Tensor x = random({N}, at::kFloat).pow(9);  // some are subnormal in fp16
      if (N > 100) {
        x.slice(0, 3, 6).fill_(NAN);
        x[8] = INFINITY;
        x[9] = -INFINITY;
        x.slice(0, 10, 40).zero_();
        x.slice(0, 40, 50).fill_(-0.0f);
        x.slice(0, 50, 60).fill_(1e-41f);
      }
      x = x.to(dtype);
      const ExponentCounts want = reference::exponent_counts(x),
                           got = tested::exponent_counts(on_gpu(x));
      EXPECT_EQ(got.by_exponent, want.by_exponent);
      EXPECT_EQ(got.zeros, want.zeros);
      EXPECT_EQ(got.largest, want.largest);
      EXPECT_NEAR(got.sum_squares, want.sum_squares, 1e-9 * want.sum_squares);  // orders differ
    }
}

using GradCheckTwinOnGpu = TwinTest;

TEST_F(GradCheckTwinOnGpu, CountsAndMultipliesAsTheCpu) {
  std::vector<at::Tensor> here, there;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const int64_t N : {0, 1, 4097, 40000}) {
      at::Tensor grad = random({N}, at::kFloat).mul(1e-4);
      if (N > 100) {
        grad[7] = NAN;
        grad[8] = INFINITY;
        grad[99] = -INFINITY;
        grad.slice(0, 10, 40).zero_();
        grad.slice(0, 50, 60).fill_(1e-6);
      }
      here.push_back(grad.to(dtype));
      there.push_back(on_gpu(here.back()));
    }
  const auto want = kernels::check_and_unscale_(here, 0.125f, 0x1p-14),
             got = tested::check_and_unscale_(there, 0.125f, 0x1p-14);
  for (size_t i = 0; i < here.size(); ++i) {
    EXPECT_EQ(got[i], want[i]) << i;
    EXPECT_TRUE(at::equal(there[i].cpu().nan_to_num(1e9), here[i].nan_to_num(1e9))) << i;
  }
}

TEST_F(GradCheckTwinOnGpu, KeepsFactsOfAStepWhoseNormIsNotFinite) {
  if constexpr (kHasCuda || kIsEmulated) {
    std::vector<at::Tensor> here, there;
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      here.push_back(random({40000}, at::kFloat).to(dtype));
      if (dtype == at::kBFloat16) here.back().slice(0, 5, 9).fill_(-INFINITY);
      there.push_back(on_gpu(here.back()));
    }
    const auto want = kernels::check_and_unscale_(here, 1.0f, 0x1p-14);
    at::Tensor counts = cuda::make_counts(4, there.front().device());
    for (const float norm : {INFINITY, 3.0f, NAN}) {
      cuda::count_if_not_finite(there, on_gpu(at::full({}, norm, at::kFloat)), 0x1p-14, counts);
      const at::Tensor on_host = counts.cpu();
      for (size_t i = 0; i < here.size(); ++i) {
        EXPECT_TRUE(at::equal(there[i].cpu(), here[i])) << i;
        const TensorStats got = cuda::facts_of(on_host, i, 40000), nothing{.numel = 40000};
        EXPECT_EQ(got, std::isfinite(norm) ? nothing : want[i]) << i;
      }
    }
  } else {
    GTEST_SKIP() << "no kernels for a GPU in this build";
  }
}

TEST_F(GradCheckTwinOnGpu, FindsInfInBf16WithoutAWord) {
  if constexpr (kHasCuda || kIsEmulated) {
    const auto fp32 = at::TensorOptions(at::kFloat).device(kIsEmulated ? at::kCPU : at::kCUDA);
    at::Tensor found_inf = at::zeros({}, fp32);
    const at::Tensor good = on_gpu(random({5000}, at::kBFloat16)), bad = good.clone();
    bad[4999] = INFINITY;
    const at::Tensor want = good * 0.5;
    cuda::check_and_unscale_on_device_({good}, found_inf, at::full({}, 0.5, fp32));
    EXPECT_EQ(found_inf.item<float>(), 0.0f);
    EXPECT_TRUE(at::equal(good, want));
    cuda::check_and_unscale_on_device_({good, bad}, found_inf, at::full({}, 0.5, fp32));
    EXPECT_EQ(found_inf.item<float>(), 1.0f);
  } else {
    GTEST_SKIP() << "no kernels for a GPU in this build";
  }
}

}  // namespace
}  // namespace mezzo::kernels
