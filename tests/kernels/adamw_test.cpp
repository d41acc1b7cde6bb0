#include "mezzo/kernels/adamw/adamw.h"

#include <array>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/error.h"
#include "mezzo/base/float_format.h"
#include "mezzo/kernels/simd/simd.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr AdamWSettings kSettings{
    .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

enum class Weight { kFp32, kSplit, kBf16, kFp16 };

at::Tensor some(at::IntArrayRef shape, int64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::dtype(at::kFloat));
}

void give_weight(AdamWParam& p, const at::Tensor& w, Weight kind) {
  if (kind == Weight::kFp32) p.weight = w.clone();
  if (kind == Weight::kBf16) p.weight = w.to(at::kBFloat16);
  if (kind == Weight::kFp16) p.weight = w.to(at::kHalf);
  if (kind == Weight::kSplit) {
    // The upper half of the bits, not rounded: remainders of either sign come with the steps.
    p.weight = w.view(at::kInt).bitwise_right_shift(16).to(at::kShort).view(at::kBFloat16);
    p.remainder = at::zeros_like(p.weight, at::kShort);
  }
}

void give_moments(AdamWParam& p, bool is_8bit) {
  p.exp_avg = at::zeros_like(p.weight, is_8bit ? at::kChar : at::kFloat);
  p.exp_avg_sq = at::zeros_like(p.weight, is_8bit ? at::kByte : at::kFloat);
  if (is_8bit) {
    p.exp_avg_scale = at::zeros({(p.weight.numel() + 127) / 128}, at::kFloat);
    p.exp_avg_sq_scale = p.exp_avg_scale.clone();
  }
}

AdamWParam parameter(const at::Tensor& w, Weight kind, bool is_8bit) {
  AdamWParam p;
  give_weight(p, w, kind);
  give_moments(p, is_8bit);
  return p;
}

AdamWParam moved_to(at::Device device, AdamWParam p) {
  for (const auto member :
       {&AdamWParam::weight, &AdamWParam::remainder, &AdamWParam::exp_avg, &AdamWParam::exp_avg_sq,
        &AdamWParam::exp_avg_scale, &AdamWParam::exp_avg_sq_scale}) {
    if ((p.*member).defined()) p.*member = (p.*member).to(device);
  }
  return p;
}

std::vector<at::Tensor> tensors_of(const AdamWParam& p) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& tensor :
       {p.weight, p.remainder, p.exp_avg, p.exp_avg_sq, p.exp_avg_scale, p.exp_avg_sq_scale}) {
    if (tensor.defined()) all.push_back(tensor);
  }
  return all;
}

void expect_equal(const AdamWParam& actual, const AdamWParam& expected) {
  const auto ours = tensors_of(actual), theirs = tensors_of(expected);
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_BIT_EQUAL(ours[i], theirs[i]);
  }
}

/// Gradients with outliers, zeros, and rows of zeros.
at::Tensor gradient(at::IntArrayRef shape, uint32_t step, at::ScalarType dtype) {
  auto grad = some(shape, 100 + step);
  grad = grad * some(shape, 200 + step).exp();
  grad.masked_fill_(some(shape, 300) > 1.5, 0.0);
  return grad.to(dtype);
}

using Case = std::tuple<Weight, at::ScalarType, bool /*8 bits*/>;

class AdamWKernels : public mezzo::testing::OnDevice<Case> {};

class AdamWKernelsOnCpu : public ::testing::TestWithParam<Case> {};

TEST_P(AdamWKernels, HasTheBitsOfItsReferenceForAwkwardSizes) {
  const auto [kind, grad_dtype, is_8bit] = GetParam();
  for (const int64_t N : {1, 31, 33, 127, 128, 129, 257, 512, 5000}) {
    SCOPED_TRACE(N);
    AdamWParam fused = moved_to(device, parameter(some({N}, 1), kind, is_8bit));
    AdamWParam plain = parameter(some({N}, 1), kind, is_8bit);
    for (uint32_t step = 1; step <= 10; ++step) {
      const float grad_scale = step % 2 == 0 ? 3.0f : 1.0f;
      fused.coefficients = plain.coefficients = adamw_coefficients(kSettings, step, grad_scale);
      plain.grad = gradient({N}, step, grad_dtype);
      fused.grad = there(plain.grad);
      adamw_({fused});
      reference::adamw_(plain);
    }
    expect_equal(fused, plain);
  }
}

TEST_P(AdamWKernelsOnCpu, HasTheSameBitsForAnyNumberOfThreads) {
  const auto [kind, grad_dtype, is_8bit] = GetParam();
  const auto after = [&](int threads) {
    at::set_num_threads(threads);
    std::vector<AdamWParam> params;
    for (const int64_t N : {70'001, 1, 0, 131'072, 513, 40'000}) {
      params.push_back(parameter(some({N}, N), kind, is_8bit));
    }
    for (uint32_t step = 1; step <= 3; ++step) {
      for (AdamWParam& p : params) {
        p.coefficients = adamw_coefficients(kSettings, step);
        p.grad = gradient(p.weight.sizes(), step, grad_dtype);
      }
      adamw_(params);
    }
    return params;
  };
  const int threads = at::get_num_threads();
  const auto expected = after(1);
  for (const int n : {2, 5}) {
    const auto params = after(n);
    for (size_t i = 0; i < params.size(); ++i) expect_equal(params[i], expected[i]);
  }
  at::set_num_threads(threads);
}

std::string name_of(Weight kind) {
  constexpr std::array kNames{"Fp32", "Split", "Bf16", "Fp16"};
  return kNames.at(static_cast<size_t>(kind));
}

std::string case_name(const ::testing::TestParamInfo<Case>& test) {
  return name_of(std::get<0>(test.param)) + c10::toString(std::get<1>(test.param)) +
         (std::get<2>(test.param) ? "Moments8" : "Moments32");
}

const auto kCases = ::testing::Combine(
    ::testing::Values(Weight::kFp32, Weight::kSplit, Weight::kBf16, Weight::kFp16),
    ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf), ::testing::Bool());

INSTANTIATE_TEST_SUITE_P(All, AdamWKernels, mezzo::testing::on_devices(kCases),
                         mezzo::testing::device_and(case_name));
INSTANTIATE_TEST_SUITE_P(All, AdamWKernelsOnCpu, kCases, case_name);

/// Bits of at::_fused_adamw_ after `steps`, on one thread and sizes that leave no scalar rest.
AdamWParam libtorchs(const at::Tensor& w, const AdamWSettings& s, uint32_t steps) {
  AdamWParam p = parameter(w, Weight::kFp32, false);
  const auto count = at::zeros({});
  for (uint32_t step = 1; step <= steps; ++step) {
    count.fill_(static_cast<double>(step));
    at::_fused_adamw_({p.weight}, {gradient(w.sizes(), step, at::kFloat)}, {p.exp_avg},
                      {p.exp_avg_sq}, {}, {count}, s.lr, s.beta1, s.beta2, s.weight_decay, s.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
  return p;
}

AdamWParam ours(const at::Tensor& w, const AdamWSettings& s, uint32_t steps) {
  AdamWParam p = parameter(w, Weight::kFp32, false);
  for (uint32_t step = 1; step <= steps; ++step) {
    p.coefficients = adamw_coefficients(s, step);
    p.grad = gradient(w.sizes(), step, at::kFloat);
    adamw_({p});
  }
  return p;
}

TEST(AdamWKernelOnFp32, HasTheBitsOfLibtorchsVectorLoop) {
  if (instruction_set() == InstructionSet::kBaseline) {
    GTEST_SKIP() << "libtorch's baseline rounds product and sum apart";
  }
  for (const double beta1 : {0.9, 0.3}) {
    AdamWSettings settings = kSettings;
    settings.beta1 = beta1;
    expect_equal(ours(some({1024}, 1), settings, 20), libtorchs(some({1024}, 1), settings, 20));
  }
}

// One update of a number: decay, two moments, bias corrections, root, quotient, sum.
TEST(AdamWKernelOnFp32, FollowsLibtorchsScalarLoop) {
  constexpr int64_t kRoundings = 16, kSteps = 20;
  const AdamWParam actual = ours(some({13}, 1), kSettings, kSteps);
  const AdamWParam expected = libtorchs(some({13}, 1), kSettings, kSteps);
  for (const auto member : {&AdamWParam::weight, &AdamWParam::exp_avg, &AdamWParam::exp_avg_sq}) {
    const at::Tensor& reference = expected.*member;
    EXPECT_CLOSE(actual.*member, reference,
                 tolerance_for(at::kFloat, kRoundings * kSteps, testing::magnitude_of(reference)));
  }
}

class AdamWKernelsOn : public mezzo::testing::OnDevice<> {};

TEST_P(AdamWKernelsOn, SplitWeightsHaveTheBitsOfAnFp32MasterOver1000Steps) {
  const at::Tensor start = some({257}, 1).to(at::kBFloat16).to(at::kFloat);
  AdamWParam master = moved_to(device, parameter(start, Weight::kFp32, false));
  AdamWParam halves = moved_to(device, parameter(start, Weight::kSplit, false));
  for (uint32_t step = 1; step <= 1000; ++step) {
    master.coefficients = halves.coefficients = adamw_coefficients(kSettings, step, 2.0f);
    master.grad = halves.grad = there(gradient({257}, step, at::kBFloat16));
    adamw_({master, halves});
  }
  const auto bits = halves.weight.view(at::kShort).to(at::kInt) * 65536 + halves.remainder;
  EXPECT_BIT_EQUAL(bits.view(at::kFloat), master.weight);
  EXPECT_BIT_EQUAL(halves.exp_avg_sq, master.exp_avg_sq);
  EXPECT_LT(halves.remainder.min().item<int>(), 0);
}

TEST_P(AdamWKernelsOn, ANanSpoilsItsBlockOf8BitMomentsForAllToSeeAndNoOther) {
  AdamWParam p = moved_to(device, parameter(at::ones({300}), Weight::kFp32, true));
  p.grad = there(at::ones({300}));
  p.grad[130] = NAN;
  p.coefficients = adamw_coefficients(kSettings, 1);
  adamw_({p});
  EXPECT_TRUE(p.weight[130].isnan().item<bool>());
  EXPECT_EQ(p.weight.isnan().sum().item<int>(), 1);
  EXPECT_EQ(p.exp_avg_scale.isnan().nonzero().item<int>(), 1);
  EXPECT_EQ(p.exp_avg_sq_scale.isnan().nonzero().item<int>(), 1);
}

INSTANTIATE_TEST_SUITE_P(Devices, AdamWKernelsOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(AdamWKernel, RefusesTensorsThatDoNotFitTogether) {
  const auto fresh = [] {
    AdamWParam p = parameter(at::ones({4, 3}), Weight::kFp32, false);
    p.grad = at::ones({4, 3});
    p.coefficients = adamw_coefficients(kSettings, 1);
    return p;
  };
  const auto refused = [&](at::Tensor AdamWParam::*member, const at::Tensor& other) {
    AdamWParam p = fresh();
    p.*member = other;
    return [p] { adamw_({p}); };
  };
  const at::Tensor transposed = at::ones({3, 4}).t(), integers = at::ones({4, 3}, at::kInt);
  EXPECT_THROW_WITH(refused(&AdamWParam::grad, transposed)(),
                    "the gradient must lie as the weight");
  EXPECT_THROW_WITH(refused(&AdamWParam::grad, integers)(),
                    "must be fp32, bf16 or fp16, but is Int");
  EXPECT_THROW_WITH(refused(&AdamWParam::weight, integers)(), "the weight must be fp32, bf16");
  EXPECT_THROW_WITH(refused(&AdamWParam::remainder, integers)(), "the remainder must be int16");
  EXPECT_THROW_WITH(refused(&AdamWParam::exp_avg_scale, at::ones({1}))(), "int8 beside a scale");
}

}  // namespace
}  // namespace mezzo::kernels
