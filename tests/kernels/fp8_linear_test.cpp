#include <cmath>
#include <memory>
#include <string>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/fp8/recipe.h"
#include "mezzo/kernels/fp8/scaling.h"
#include "tests/close.h"
#include "tests/kernels/fp8_bound.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;
using mezzo::testing::magnitude_of;

constexpr at::ScalarType kE4M3 = at::kFloat8_e4m3fn, kE5M2 = at::kFloat8_e5m2;

const Random random(5);

at::Tensor exact(const at::Tensor& x) { return x.detach().cpu().to(at::kDouble); }

/// On the device that the parameter names.
class Fp8CasterTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (is_cuda() && !(kHasCuda && at::hasCUDA())) GTEST_SKIP() << "no GPU here";
  }
  bool is_cuda() const { return std::string(GetParam()) == "cuda"; }
  at::Tensor there(const at::Tensor& x) const { return x.to(at::Device(GetParam())); }
};

TEST_P(Fp8CasterTest, DelayedScalingFollowsAndASpikeSaturatesOnce) {
  Fp8Caster caster(kE4M3, {.is_delayed = true, .history = 4});
  const at::Tensor calm = there(random({16, 16}).clamp(-2, 2));
  const at::Tensor spike = calm * 1000.0;
  const auto saturates = [&](const at::Tensor& x) {
    const double largest = magnitude_of(fp8_wide(caster.cast(x, false)).cpu());
    return largest < 0.9 * magnitude_of(x.cpu());
  };
  const double scale_of_calm = caster.cast(calm, false).scale.item<double>();
  EXPECT_EQ(scale_of_calm,
            fp8_scale(fp8_amax(calm), kE4M3).item<double>());  // of the first: its own
  EXPECT_TRUE(saturates(spike));
  EXPECT_FALSE(saturates(spike));
  // The second spike is the latest of the history at the next cast, and gone after four.
  for (int step = 0; step < 4; ++step)
    EXPECT_GT(caster.cast(calm, false).scale.item<double>(), scale_of_calm);
  EXPECT_EQ(caster.cast(calm, false).scale.item<double>(), scale_of_calm);
}

TEST_P(Fp8CasterTest, CurrentScalingNeitherSaturatesNorRemembers) {
  Fp8Caster caster(kE5M2, {});
  const at::Tensor x = random({32, 48});
  for (const double size : {1e-6, 1e4, 1.0}) {
    const Fp8 got = caster.cast(there(x * size), false);
    EXPECT_TRUE(
        is_within(fp8_wide(got).cpu(), exact(x * size), cast_bound(x * size, got.scale, kE5M2)));
  }
  EXPECT_FALSE(caster.history().amaxes.defined());
}

TEST_P(Fp8CasterTest, HistoryCanBeKeptAndSet) {
  const Fp8Scaling scaling{.is_delayed = true, .history = 2};
  Fp8Caster caster(kE4M3, scaling), other(kE4M3, scaling);
  const at::Tensor x = there(random({16, 16}));
  caster.cast(x * 100.0, false);
  other.set_history(caster.history());
  EXPECT_EQ(other.cast(x, false).scale.item<double>(), caster.cast(x, false).scale.item<double>());
}

TEST_P(Fp8CasterTest, ACastThatIsNotRememberedHasTheScaleOfOneThatIs) {
  Fp8Caster caster(kE4M3, {.is_delayed = true, .history = 4});
  const at::Tensor x = there(random({16, 16}));
  const double own = caster.cast(x, false, /*remembers=*/false).scale.item<double>();
  EXPECT_FALSE(caster.history().amaxes.defined());
  EXPECT_EQ(caster.cast(x, false).scale.item<double>(), own);
  for (const double size : {100.0, 1e4}) {
    const Fp8 passing = caster.cast(x * size, false, /*remembers=*/false);
    EXPECT_BIT_EQUAL(fp8_wide(caster.cast(x * size, false)).cpu(), fp8_wide(passing).cpu());
  }
}

TEST_P(Fp8CasterTest, ACastThatIsNotRememberedLeavesNoTrace) {
  Fp8Caster caster(kE4M3, {.is_delayed = true, .history = 4});
  const at::Tensor x = there(random({16, 16}));
  caster.cast(x, false);
  const at::Tensor amaxes = caster.history().amaxes.clone(),
                   latest = caster.history().latest.clone();
  caster.cast(x * 1000.0, false, /*remembers=*/false);
  EXPECT_BIT_EQUAL(caster.history().amaxes.cpu(), amaxes.cpu());
  EXPECT_BIT_EQUAL(caster.history().latest.cpu(), latest.cpu());
}

TEST_P(Fp8CasterTest, AHistoryIsSetWhereItLies) {
  const Fp8Scaling scaling{.is_delayed = true, .history = 2};
  Fp8Caster caster(kE4M3, scaling), other(kE4M3, scaling);
  caster.cast(there(random({16, 16})), false);
  other.cast(there(random({16, 16})), false);
  const void *amaxes = other.history().amaxes.data_ptr(),
             *latest = other.history().latest.data_ptr();
  other.set_history(caster.history());
  EXPECT_EQ(other.history().amaxes.data_ptr(), amaxes);
  EXPECT_EQ(other.history().latest.data_ptr(), latest);
  EXPECT_BIT_EQUAL(other.history().amaxes.cpu(), caster.history().amaxes.cpu());
  other.set_history({});
  EXPECT_FALSE(other.history().amaxes.defined());
}

/// A cast operand of a product, in fp64, and what it may be off by.
struct Operand {
  at::Tensor value, error;
};

Operand operand(const at::Tensor& x, at::ScalarType dtype) {
  return {exact(x), cast_bound(x, fp8_scale(fp8_amax(x), dtype), dtype)};
}

/// Of a [M, K] b [K, N]: the casts' errors, those of a sum of K terms, and the output's rounding.
/// A Hopper GPU's FP8 sums keep 13 bits behind the largest of 32 terms and the sum so far
/// (DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3.2).
at::Tensor product_bound(const Operand& a, const Operand& b, at::ScalarType out, bool is_cuda) {
  const at::Tensor A = a.value.abs(), B = b.value.abs(), terms = A.mm(B);
  const auto K = static_cast<double>(A.size(1));
  const at::Tensor largest = A.amax() * B.amax();
  const at::Tensor sums =
      is_cuda ? 0x1p-12 * (K * largest + (K / 32 + 1) * terms) : terms * (K * 0x1p-23);
  const at::Tensor casts = a.error.mm(B) + A.mm(b.error) + a.error.mm(b.error);
  return casts + sums + (terms + casts) * float_format(out).epsilon;
}

class Fp8LinearTest : public Fp8CasterTest {
 protected:
  void SetUp() override {
    Fp8CasterTest::SetUp();
    if (IsSkipped()) return;
    const at::Tensor x = there(at::zeros({16, 16})), weight = there(at::zeros({16, 16}));
    if (const std::string refusal = fp8_refusal(x, weight); !refusal.empty())
      GTEST_SKIP() << refusal;
  }
  static std::shared_ptr<Fp8Recipe> recipe(const Fp8Scaling& scaling = {}) {
    return std::make_shared<Fp8Recipe>(scaling);
  }
};

TEST_P(Fp8LinearTest, ProductIsThatOfTheCastOperands) {
  const at::Tensor x = there(random({48, 64})), weight = there(random({80, 64}));
  const at::Tensor bias = there(random({80}).to(at::kBFloat16));
  const at::Tensor got = fp8_linear(x, weight, bias, recipe());
  Fp8Recipe own{Fp8Scaling{}};
  const at::Tensor x8 = exact(fp8_wide(own.x.cast(x, false))),
                   weight8 = exact(fp8_wide(own.weight.cast(weight, false)));
  const at::Tensor none = at::zeros({1}, at::kDouble);
  const at::Tensor bound =
      product_bound({x8, none.expand_as(x8)}, {weight8.t(), none.expand_as(weight8.t())},
                    at::kBFloat16, is_cuda());
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(is_within(got.cpu(), at::linear(x8, weight8, exact(bias)),
                        bound + exact(bias).abs() * 0x1p-7));
}

TEST_P(Fp8LinearTest, ValueAndGradientsAreWithinTheBoundOfFp64) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor x = there(random({2, 24, 64}).to(dtype)).requires_grad_(),
                     weight = there((random({80, 64}) * 0.1).to(dtype)).requires_grad_(),
                     bias = there(random({80}).to(dtype)).requires_grad_();
    // Gradients far too small for a scale of 1.
    const at::Tensor grad = there((random({2, 24, 80}) * 1e-6).to(at::kBFloat16));
    const at::Tensor y = fp8_linear(x, weight, bias, recipe());
    y.backward(grad);

    const at::Tensor rows = x.detach().view({48, 64}), grads = grad.view({48, 80});
    const Operand x8 = operand(rows, kE4M3), weight8 = operand(weight.detach(), kE4M3),
                  grad8 = operand(grads, kE5M2);
    const auto t = [](const Operand& a) { return Operand{a.value.t(), a.error.t()}; };
    EXPECT_TRUE(is_within(
        y.detach().cpu().view({48, 80}), at::linear(x8.value, weight8.value, exact(bias)),
        product_bound(x8, t(weight8), at::kBFloat16, is_cuda()) + exact(bias).abs() * 0x1p-7));
    const auto rest = float_format(dtype).smallest_subnormal;
    EXPECT_TRUE(is_within(x.grad().cpu().view({48, 64}), grad8.value.mm(weight8.value),
                          product_bound(grad8, weight8, dtype, is_cuda()) + rest));
    EXPECT_TRUE(is_within(weight.grad().cpu(), grad8.value.t().mm(x8.value),
                          product_bound(t(grad8), x8, dtype, is_cuda()) + rest));
    const at::Tensor sum = grad8.value.sum(0), terms = grad8.value.abs().sum(0);
    EXPECT_TRUE(is_within(bias.grad().cpu(), sum,
                          terms * (float_format(dtype).epsilon / 2 + 48 * 0x1p-24) + rest));
    EXPECT_EQ(x.grad().scalar_type(), dtype);
    EXPECT_EQ(weight.grad().scalar_type(), dtype);
  }
}

TEST_P(Fp8LinearTest, DelayedScalingIsAsGoodOnceItHasSeenTheNumbers) {
  const at::Tensor x = there(random({32, 64})).requires_grad_(),
                   weight = there(random({48, 64})).requires_grad_(),
                   grad = there(random({32, 48}).to(at::kBFloat16));
  const auto current = recipe(), delayed = recipe({.is_delayed = true, .history = 4});
  const auto step = [&](const std::shared_ptr<Fp8Recipe>& with) {
    const at::Tensor y = fp8_linear(x, weight, {}, with);
    auto grads = torch::autograd::grad({y}, {x, weight}, {grad});
    grads.push_back(y.detach());
    return grads;
  };
  const auto want = step(current);
  for (int i = 0; i < 3; ++i) {
    const auto got = step(delayed);
    for (size_t k = 0; k < want.size(); ++k) EXPECT_BIT_EQUAL(got[k].cpu(), want[k].cpu());
  }
}

TEST_P(Fp8LinearTest, TwoForwardPassesBeforeABackwardPassEachKeepTheirScales) {
  const at::Tensor x = there(random({16, 16})).requires_grad_(),
                   weight = there(random({16, 16})).requires_grad_();
  const auto delayed = recipe({.is_delayed = true});
  const at::Tensor first = fp8_linear(x, weight, {}, delayed),
                   second = fp8_linear(x * 1000.0, weight, {}, delayed);
  const at::Tensor ones = at::ones_like(first);
  const at::Tensor got = torch::autograd::grad({first}, {weight}, {ones})[0];
  const at::Tensor want =
      torch::autograd::grad({fp8_linear(x, weight, {}, recipe())}, {weight}, {ones})[0];
  EXPECT_BIT_EQUAL(got.cpu(), want.cpu());
}

TEST_P(Fp8LinearTest, OnlyGradientsThatAreWantedAreThere) {
  const at::Tensor x = there(random({16, 32})), weight = there(random({48, 32}));
  const at::Tensor leaf = weight.clone().requires_grad_(), input = x.clone().requires_grad_();
  fp8_linear(x, leaf, {}, recipe()).sum().backward();
  fp8_linear(input, weight, {}, recipe()).sum().backward();
  EXPECT_EQ(leaf.grad().sizes(), weight.sizes());
  EXPECT_EQ(input.grad().sizes(), x.sizes());
  EXPECT_FALSE(fp8_linear(x, weight, {}, recipe()).requires_grad());
}

TEST_P(Fp8LinearTest, APassWithoutGradientsIsNotRemembered) {
  const at::Tensor x = there(random({16, 32})), weight = there(random({48, 32}));
  const auto delayed = recipe({.is_delayed = true});
  fp8_linear(x, weight, {}, delayed);
  const at::Tensor amaxes = delayed->x.history().amaxes.clone();
  {
    const at::NoGradGuard no_grad;
    fp8_linear(x * 1000.0, weight, {}, delayed);
  }
  EXPECT_BIT_EQUAL(delayed->x.history().amaxes.cpu(), amaxes.cpu());
  fp8_linear(x, weight, {}, delayed);
  EXPECT_NE(delayed->x.history().amaxes.cpu()[1].item<double>(), 0.0);
}

TEST_P(Fp8LinearTest, AutocastChangesNoBitOfIt) {
  const at::Tensor x = there(random({32, 64})).requires_grad_(),
                   weight = there(random({48, 64})).requires_grad_(),
                   bias = there(random({48})).requires_grad_();
  const at::Tensor grad = there(random({32, 48}).to(at::kBFloat16));
  const auto step = [&](bool is_autocast) {
    at::autocast::set_autocast_enabled(x.device().type(), is_autocast);
    const at::Tensor y = fp8_linear(x, weight, bias, recipe());
    auto results = torch::autograd::grad({y}, {x, weight, bias}, {grad});
    at::autocast::set_autocast_enabled(x.device().type(), false);
    results.push_back(y.detach());
    return results;
  };
  const auto got = step(true), want = step(false);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_BIT_EQUAL(got[i].cpu(), want[i].cpu()) << i;
}

TEST_P(Fp8LinearTest, NaNAndInfReachTheOutputAndTheGradients) {
  for (const float bad : {NAN, INFINITY})
    for (const bool is_delayed : {false, true}) {
      const at::Tensor x = there(random({16, 32})),
                       weight = there(random({48, 32})).requires_grad_();
      const auto with = recipe({.is_delayed = is_delayed});
      x[3][5] = bad;
      const at::Tensor y = fp8_linear(x, weight, {}, with);
      EXPECT_TRUE(y[3].isfinite().logical_not().all().item<bool>());
      EXPECT_TRUE(y[4].isfinite().all().item<bool>());
      y.sum().backward();
      EXPECT_TRUE(weight.grad().select(1, 5).isfinite().logical_not().all().item<bool>());
    }
}

TEST_P(Fp8LinearTest, ZerosGiveZeros) {
  const at::Tensor x = there(at::zeros({16, 32})).requires_grad_(),
                   weight = there(random({48, 32}));
  const at::Tensor y = fp8_linear(x, weight, {}, recipe({.is_delayed = true}));
  EXPECT_EQ(magnitude_of(y.detach().cpu()), 0.0);
  y.backward(at::zeros_like(y));
  EXPECT_EQ(magnitude_of(x.grad().cpu()), 0.0);
}

TEST_P(Fp8LinearTest, RefusesWhatAGpuCannotMultiply) {
  const auto refusal = [&](at::IntArrayRef x, at::IntArrayRef weight, at::ScalarType dtype) {
    return fp8_refusal(there(at::zeros(x, dtype)), there(at::zeros(weight, dtype)));
  };
  EXPECT_EQ(refusal({2, 8, 32}, {48, 32}, at::kFloat), "");
  EXPECT_EQ(refusal({15, 32}, {48, 32}, at::kFloat),
            "rows = 15, which is no positive multiple of 16");
  EXPECT_EQ(refusal({16, 30}, {48, 30}, at::kFloat), "C = 30, which is no positive multiple of 16");
  EXPECT_EQ(refusal({16, 32}, {50257, 32}, at::kFloat),
            "N = 50257, which is no positive multiple of 16");
  EXPECT_EQ(refusal({0, 32}, {48, 32}, at::kFloat),
            "rows = 0, which is no positive multiple of 16");
  EXPECT_EQ(refusal({16, 32}, {48, 32}, at::kDouble), "dtype Double");
  EXPECT_THROW_WITH(
      fp8_linear(there(at::zeros({15, 32})), there(at::zeros({48, 32})), {}, recipe()),
      "no FP8 for rows = 15");
}

const auto kDevices = ::testing::Values("cpu", "cuda");
const auto kNameOfDevice = [](const auto& param) { return std::string(param.param); };
INSTANTIATE_TEST_SUITE_P(On, Fp8CasterTest, kDevices, kNameOfDevice);
INSTANTIATE_TEST_SUITE_P(On, Fp8LinearTest, kDevices, kNameOfDevice);

TEST(Fp8Caster, RefusesAHistoryThatIsNotItsOwn) {
  EXPECT_THROW_WITH(Fp8Caster(kE4M3, {.history = 4}).set_history({}), "has no history");
  EXPECT_THROW_WITH(
      Fp8Caster(kE4M3, {.is_delayed = true, .history = 4}).set_history(amax_history(3, at::kCPU)),
      "must be of 4 casts, but is of 3");
}

TEST(Fp8Linear, HasNoSecondDerivative) {
  const at::Tensor x = random({16, 16}).requires_grad_();
  const at::Tensor y =
      fp8_linear(x, random({16, 16}), {}, std::make_shared<Fp8Recipe>(Fp8Scaling{}));
  EXPECT_THROW_WITH(torch::autograd::grad({y.sum()}, {x}, {}, true, /*create_graph=*/true),
                    "cannot be differentiated again");
}

}  // namespace
}  // namespace mezzo::kernels
