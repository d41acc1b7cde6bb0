#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/memory.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/linear_cross_entropy/reference.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/linear_cross_entropy_bound.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// The op, forward and backward, with `factor` as the incoming gradient. Values on the CPU.
LossValues computed(const LossCase& c, double factor = 1.0) {
  const at::Tensor x = c.x.detach().to(c.device).requires_grad_(),
                   weight = c.weight.detach().to(c.device).requires_grad_();
  const at::Tensor loss = linear_cross_entropy(x, weight, c.targets.to(c.device), c.options);
  EXPECT_EQ(loss.device(), x.device());
  (loss * factor).backward();
  return {loss.detach().cpu(), x.grad().cpu(), weight.grad().cpu()};
}

void expect_within_bounds(const LossValues& got, const LossCase& c, double factor = 1.0) {
  const LossValues exact = exact_values(c, factor), bounds = error_bounds(c, exact, factor);
  EXPECT_TRUE(is_within(got.loss, exact.loss, bounds.loss)) << got.loss << exact.loss;
  EXPECT_TRUE(is_within(got.grad_x, exact.grad_x, bounds.grad_x));
  EXPECT_TRUE(is_within(got.grad_weight, exact.grad_weight, bounds.grad_weight));
}

/// N, V, dtype.
using Case = std::tuple<int64_t, int64_t, at::ScalarType>;

LossCase make_case(const Case& param, at::Device device = at::kCPU) {
  const auto [N, V, dtype] = param;
  return random_case(N, V, 31, dtype, device);
}

class LinearCrossEntropy : public mezzo::testing::OnDevice<Case> {};

class LinearCrossEntropyOnCpu : public ::testing::TestWithParam<Case> {};

TEST_P(LinearCrossEntropy, LossAndGradientsAreWithinTheirBounds) {
  const LossCase c = make_case(GetParam(), device);
  const LossValues got = computed(c);
  EXPECT_EQ(got.loss.scalar_type(), at::kFloat);
  EXPECT_EQ(got.grad_x.scalar_type(), c.x.scalar_type());
  EXPECT_EQ(got.grad_weight.scalar_type(), c.x.scalar_type());
  expect_within_bounds(got, c);
}

TEST_P(LinearCrossEntropy, IncomingGradientIsMultipliedIn) {
  const LossCase c = make_case(GetParam(), device);
  for (const double factor : {0.25, 1024.0, -1.0 / 3.0})
    expect_within_bounds(computed(c, factor), c, factor);
}

TEST_P(LinearCrossEntropy, LabelSmoothingAndZLossAndIgnoredRowsAreWithinTheirBounds) {
  LossCase c = make_case(GetParam(), device);
  c.options = {.ignore_index = 0, .label_smoothing = 0.1, .z_loss = 1e-2};
  if ((c.targets == 0).all().item<bool>()) c.options.ignore_index = -1;
  expect_within_bounds(computed(c), c);
}

TEST_P(LinearCrossEntropyOnCpu, ChunksOfAnySizeAreWithinTheBounds) {
  const LossCase c = make_case(GetParam());
  const int64_t V = c.weight.size(0);
  const int64_t bytes = kernels::widens(c.x.scalar_type()) ? 4 : c.x.element_size();
  for (const int64_t rows : {1, 10, 256}) {
    const LossAndGradients got = cpu::linear_cross_entropy(
        c.x, c.weight, c.targets, c.options, {.x = true, .weight = true}, rows * V * bytes);
    expect_within_bounds({got.loss, got.grad_x, got.grad_weight}, c);
  }
}

std::string case_name(const ::testing::TestParamInfo<Case>& param) {
  const auto& [N, V, dtype] = param.param;
  return fmt::format("{}x{}_{}", N, V, c10::toString(dtype));
}

const auto kCases =
    ::testing::Combine(::testing::Values(1, 33, 257), ::testing::Values(1, 31, 257, 4097),
                       ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf));

INSTANTIATE_TEST_SUITE_P(ShapesAndDtypes, LinearCrossEntropy, mezzo::testing::on_devices(kCases),
                         mezzo::testing::device_and(case_name));
INSTANTIATE_TEST_SUITE_P(ShapesAndDtypes, LinearCrossEntropyOnCpu, kCases, case_name);

class LinearCrossEntropyOn : public mezzo::testing::OnDevice<> {};

TEST_P(LinearCrossEntropyOn, BoundRejectsExponentialsSummedInBf16) {
  LossCase c = random_case(1, 4097, 31, at::kBFloat16, device);
  c.x.zero_();  // equal logits: a sum of ones in bf16 sticks at 256
  const LossValues exact = exact_values(c), bounds = error_bounds(c, exact);
  at::Tensor sum = at::zeros({}, at::kBFloat16);
  for (int64_t j = 0; j < 4097; ++j) sum.add_(1.0);
  EXPECT_FALSE(is_within(sum.to(at::kDouble).log(), exact.loss, bounds.loss));
  expect_within_bounds(computed(c), c);
}

TEST_P(LinearCrossEntropyOn, BoundRejectsAMissingTargetAndNaN) {
  const LossCase c = random_case(1, 257, 31, at::kBFloat16, device);
  LossCase other = c;
  other.targets = (c.targets + 1).remainder(257);
  const LossValues exact = exact_values(c), bounds = error_bounds(c, exact),
                   wrong = computed(other);
  EXPECT_FALSE(is_within(wrong.loss, exact.loss, bounds.loss));
  EXPECT_FALSE(is_within(wrong.grad_x, exact.grad_x, bounds.grad_x));
  EXPECT_FALSE(is_within(wrong.grad_weight, exact.grad_weight, bounds.grad_weight));
  EXPECT_FALSE(is_within(exact.loss * kNaN, exact.loss, bounds.loss));
}

TEST(LinearCrossEntropyReference, IsPytorchsCrossEntropyOfTheLogits) {
  LossCase c = random_case(33, 31, 17, at::kDouble);
  c.options = {.ignore_index = 3, .label_smoothing = 0.2};
  const at::Tensor expected =
      at::cross_entropy_loss(at::linear(c.x, c.weight), c.targets, {}, at::Reduction::Mean, 3, 0.2);
  EXPECT_TRUE(
      at::equal(reference::linear_cross_entropy(c.x, c.weight, c.targets, c.options), expected));
}

TEST(LinearCrossEntropyReference, GradientIsTheFiniteDifference) {
  LossCase c = random_case(5, 7, 3, at::kDouble);
  c.options = {.ignore_index = 3, .label_smoothing = 0.2, .z_loss = 0.1};
  const LossValues exact = exact_values(c);
  constexpr double kStep = 0x1p-14;
  const auto loss = [&](const at::Tensor& x) {
    return reference::linear_cross_entropy(x, c.weight, c.targets, c.options);
  };
  for (int64_t i = 0; i < c.x.numel(); ++i) {
    at::Tensor step = at::zeros_like(c.x);
    step.view(-1)[i] = kStep;
    const at::Tensor slope = (loss(c.x + step) - loss(c.x - step)) / (2 * kStep);
    // The central difference is off by f''' h^2 / 6; third derivatives of lse and of its square
    // times 0.1 are below 8 |weight|^3 for the weights drawn here.
    const double bound = 8 * std::pow(c.weight.abs().max().item<double>(), 3) * kStep * kStep;
    EXPECT_LE(std::abs((slope - exact.grad_x.view(-1)[i]).item<double>()), bound);
  }
}

TEST_P(LinearCrossEntropyOn, IgnoredRowsHaveGradientsOfExactlyZero) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    LossCase c = random_case(33, 257, 31, dtype, device);
    c.targets.slice(0, 0, 33, 2).fill_(-100);
    const LossValues got = computed(c);
    expect_within_bounds(got, c);
    EXPECT_TRUE((got.grad_x.slice(0, 0, 33, 2) == 0).all().item<bool>());
    EXPECT_TRUE((got.grad_x.slice(0, 1, 33, 2) != 0).any().item<bool>());
  }
}

TEST_P(LinearCrossEntropyOn, WithoutACountedRowTheLossIsNaNAndTheGradientsZero) {
  LossCase c = random_case(5, 31, 7, at::kBFloat16, device);
  c.targets.fill_(-100);
  const LossValues ignored = computed(c);
  EXPECT_TRUE(std::isnan(ignored.loss.item<double>()));
  EXPECT_TRUE((ignored.grad_x == 0).all().item<bool>());
  EXPECT_TRUE((ignored.grad_weight == 0).all().item<bool>());

  const LossValues empty = computed(random_case(0, 31, 7, at::kBFloat16, device));
  EXPECT_TRUE(std::isnan(empty.loss.item<double>()));
  EXPECT_EQ(empty.grad_x.sizes(), (std::vector<int64_t>{0, 7}));
  EXPECT_TRUE((empty.grad_weight == 0).all().item<bool>());
}

TEST_P(LinearCrossEntropyOn, TakesAnyStridesAndLeadingDimensions) {
  const LossCase c = random_case(6, 31, 7, at::kFloat, device);
  const LossValues flat = computed(c);
  const at::Tensor x = there(c.x).t().contiguous().t().unflatten(0, {2, 3}).requires_grad_();
  const at::Tensor weight = there(c.weight).t().contiguous().t();
  const at::Tensor targets = there(at::stack({c.targets, c.targets}, 1)).select(1, 0).view({2, 3});
  const at::Tensor loss = linear_cross_entropy(x, weight, targets);
  loss.backward();
  const LossValues bounds = error_bounds(c, exact_values(c));
  EXPECT_TRUE(is_within(here(loss.detach()), flat.loss.to(at::kDouble), 2 * bounds.loss));
  EXPECT_EQ(x.grad().sizes(), x.sizes());
  EXPECT_TRUE(
      is_within(here(x.grad()).flatten(0, 1), flat.grad_x.to(at::kDouble), 2 * bounds.grad_x));
}

TEST_P(LinearCrossEntropyOn, LargeLogitsDoNotOverflow) {
  LossCase c = random_case(33, 257, 31, at::kFloat, device);
  c.x.mul_(1e4 / 31);
  expect_within_bounds(computed(c), c);
}

TEST_P(LinearCrossEntropyOn, NaNInOneRowMakesTheLossNaN) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    LossCase c = random_case(33, 257, 31, dtype, device);
    c.x[17][3] = kNaN;
    EXPECT_TRUE(std::isnan(computed(c).loss.item<double>()));
    c.x[17][3] = std::numeric_limits<double>::infinity();
    EXPECT_TRUE(std::isnan(computed(c).loss.item<double>()));
  }
}

TEST_P(LinearCrossEntropyOn, LossScaleKeepsFp16GradientsThatUnderflowWithoutIt) {
  LossCase c = random_case(257, 4097, 31, at::kHalf, device);
  c.x.mul_(0x1p-8);
  const LossValues plain = computed(c), scaled = computed(c, 65536.0);
  expect_within_bounds(plain, c);
  expect_within_bounds(scaled, c, 65536.0);
  EXPECT_GT((plain.grad_weight == 0).sum().item<int64_t>(), plain.grad_weight.numel() / 100);
  EXPECT_LT((scaled.grad_weight == 0).sum().item<int64_t>(), plain.grad_weight.numel() / 10000);
}

TEST_P(LinearCrossEntropyOn, OnlyTheGradientsAskedForAreMade) {
  const LossCase c = random_case(33, 257, 31, at::kBFloat16, device);
  const LossValues both = computed(c);
  const at::Tensor plain_x = there(c.x), plain_weight = there(c.weight), targets = there(c.targets);
  const at::Tensor x = plain_x.detach().requires_grad_(),
                   weight = plain_weight.detach().requires_grad_();
  linear_cross_entropy(x, plain_weight, targets).backward();
  linear_cross_entropy(plain_x, weight, targets).backward();
  EXPECT_TRUE(at::equal(here(x.grad()), both.grad_x));
  EXPECT_TRUE(at::equal(here(weight.grad()), both.grad_weight));
  EXPECT_FALSE(plain_x.grad().defined() || plain_weight.grad().defined());

  const at::NoGradGuard no_grad;
  const at::Tensor loss = linear_cross_entropy(x, weight, targets);
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_TRUE(at::equal(here(loss), both.loss));
}

TEST_P(LinearCrossEntropyOn, BackwardTwiceThroughAKeptGraphAddsUp) {
  const LossCase c = random_case(33, 257, 31, at::kFloat, device);
  const LossValues once = computed(c);
  const at::Tensor x = there(c.x).detach().requires_grad_(),
                   weight = there(c.weight).detach().requires_grad_();
  const at::Tensor loss = linear_cross_entropy(x, weight, there(c.targets));
  loss.backward({}, /*retain_graph=*/true);
  loss.backward();
  EXPECT_TRUE(at::equal(here(x.grad()), 2 * once.grad_x));
  EXPECT_TRUE(at::equal(here(weight.grad()), 2 * once.grad_weight));
}

INSTANTIATE_TEST_SUITE_P(Devices, LinearCrossEntropyOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

// MKL and oneDNN may cut a sum among their threads; what such a product gives is libtorch's to
// answer for. Each result is held to the same bits where its own product has them.
TEST(LinearCrossEntropyOp, ResultsDoNotDependOnTheNumberOfThreadsWhereProductsDoNot) {
  const int threads = at::get_num_threads();
  int compared = 0;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const LossCase c = random_case(257, 4097, 31, dtype);
    const at::ScalarType inside = kernels::widens(dtype) ? at::kFloat : dtype;
    const at::Tensor x = c.x.to(inside), weight = c.weight.to(inside);
    at::set_num_threads(1);
    const LossValues one = computed(c, 3.0);
    const at::Tensor logits = kernels::mm(x, weight.t());
    const at::Tensor like_grad_x = kernels::mm(logits, weight);
    const at::Tensor like_grad_weight = kernels::mm(logits.t(), x);
    const auto expect_equal = [&](const at::Tensor& many, const at::Tensor& one_thread) {
      EXPECT_TRUE(at::equal(many, one_thread)) << dtype;
      ++compared;
    };
    for (const int count : {2, 5}) {
      at::set_num_threads(count);
      if (!at::equal(kernels::mm(x, weight.t()), logits)) continue;
      const LossValues many = computed(c, 3.0);
      expect_equal(many.loss, one.loss);
      if (at::equal(kernels::mm(logits, weight), like_grad_x))
        expect_equal(many.grad_x, one.grad_x);
      if (at::equal(kernels::mm(logits.t(), x), like_grad_weight))
        expect_equal(many.grad_weight, one.grad_weight);
    }
  }
  at::set_num_threads(threads);
  if (compared == 0) GTEST_SKIP() << "every product depends on the number of threads";
}

TEST(LinearCrossEntropyOp, ManyChunksNeedLessThanTheLogits) {
  const LossCase c = random_case(512, 4097, 32, at::kBFloat16);
  const int64_t logits_bytes = 512 * 4097 * 2;
  const TensorMemoryMeter memory;
  cpu::linear_cross_entropy(c.x, c.weight, c.targets, c.options, {.x = true, .weight = true},
                            logits_bytes / 16);
  EXPECT_LT(memory.peak_bytes(), logits_bytes);
}

// Logits of more than a chunk, and of no more than the fp32 sum that several would need.
TEST(LinearCrossEntropyOp, TakesOneChunkWhereThatNeedsLess) {
  if (kernels::widens(at::kBFloat16))
    GTEST_SKIP() << "bf16 logits are in fp32 here, and no longer fit into one chunk";
  constexpr int64_t N = 2048, V = 17'000, C = 1024;
  const LossCase c = random_case(N, V, C, at::kBFloat16);
  const TensorMemoryMeter memory;
  cpu::linear_cross_entropy(c.x, c.weight, c.targets, c.options, {.x = true, .weight = true});
  EXPECT_LT(memory.peak_bytes(), 2 * V * (N + C) + 4 * V * C / 8);
}

TEST(LinearCrossEntropyOp, IsInTheDispatcherWithItsDefaults) {
  const LossCase c = random_case(5, 31, 7, at::kFloat);
  const at::Tensor expected = linear_cross_entropy(c.x, c.weight, c.targets);
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mezzo::linear_cross_entropy", "");
  std::vector<c10::IValue> arguments = {c.x, c.weight, c.targets};
  op.schema().checkAndNormalizeInputs(arguments);
  op.callBoxed(&arguments);
  EXPECT_TRUE(at::equal(arguments.front().toTensor(), expected));
}

TEST(LinearCrossEntropyOp, Fp64GoesToTheReference) {
  LossCase c = random_case(5, 31, 7, at::kDouble);
  c.options.z_loss = 1e-2;
  const LossValues got = computed(c), exact = exact_values(c);
  EXPECT_TRUE(at::equal(got.loss, exact.loss));
  EXPECT_TRUE(at::equal(got.grad_weight, exact.grad_weight));
}

TEST(LinearCrossEntropyOp, SaysWhatDoesNotFit) {
  const LossCase c = random_case(5, 31, 7, at::kFloat);
  const auto call = [&](const at::Tensor& x, const at::Tensor& targets,
                        LinearCrossEntropyOptions options = {}) {
    return linear_cross_entropy(x, c.weight, targets, options);
  };
  at::Tensor targets = c.targets.clone();
  targets[3] = 31;
  EXPECT_THROW_WITH(call(c.x, targets),
                    "targets must be in [0, 31) or ignore_index -100, but number 3 is 31");
  targets[3] = -1;
  EXPECT_THROW_WITH(call(c.x, targets), "but number 3 is -1");
  EXPECT_NO_THROW(call(c.x, targets, {.ignore_index = -1}));
  EXPECT_THROW_WITH(call(c.x, c.targets.to(at::kInt)), "targets must be int64, but are Int");
  EXPECT_THROW_WITH(call(c.x, c.targets.to(at::kMeta)),
                    "targets must be on the device of x, cpu, but are on meta");
  EXPECT_THROW_WITH(call(c.x.narrow(1, 0, 6), c.targets),
                    "x must be [..., 7] for weight [V, 7], but is [5, 6]");
  EXPECT_THROW_WITH(call(c.x, c.targets.narrow(0, 0, 4)),
                    "targets must be [5], one a row of x, but are [4]");
  EXPECT_THROW_WITH(call(c.x, c.targets, {.label_smoothing = 1.5}),
                    "must be in [0, 1], but is 1.5");
  EXPECT_THROW_WITH(call(c.x, c.targets, {.z_loss = -1}), "z_loss must be >= 0, but is -1");
}

TEST(LinearCrossEntropyOp, RefusesASecondDerivative) {
  const LossCase c = random_case(5, 31, 7, at::kFloat);
  const at::Tensor x = c.x.requires_grad_();
  const at::Tensor loss = linear_cross_entropy(x, c.weight, c.targets);
  EXPECT_THROW_WITH(torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true),
                    "cannot be differentiated again");
}

}  // namespace
}  // namespace mezzo::kernels
