#include "mezzo/kernels/matmul/matmul.h"

#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "mezzo/base/check.h"
#include "mezzo/base/log.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "mezzo/kernels/matmul/onednn.h"
#include "tests/close.h"
#include "tests/kernels/product.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;
using product::Case;
using product::case_name;
using product::error_bound;
using product::is_product;
using product::Shape;
using product::transposed;

const Random random(1);

const std::vector<Shape> kShapes = {
    {1, 1, 1}, {1, 257, 31}, {31, 33, 257}, {257, 129, 1024}, {512, 384, 96}};

class Matmul : public ::testing::TestWithParam<Case> {};

TEST_P(Matmul, MmIsWithinItsErrorBoundInEveryLayout) {
  const auto& [shape, dtype] = GetParam();
  const auto [m, n, k] = shape;
  const at::Tensor a = random({m, k}, dtype), b = random({k, n}, dtype);
  EXPECT_TRUE(is_product(kernels::mm(a, b), a, b));
  EXPECT_TRUE(is_product(kernels::mm(a, transposed(b)), a, b)) << "NT";
  EXPECT_TRUE(is_product(kernels::mm(transposed(a), b), a, b)) << "TN";
}

TEST_P(Matmul, AddmmIsWithinItsErrorBoundForRowBiasAndMatrixAndFactors) {
  const auto& [shape, dtype] = GetParam();
  const auto [m, n, k] = shape;
  const at::Tensor a = random({m, k}, dtype), b = random({k, n}, dtype);
  for (const at::Tensor& self :
       {random({n}, dtype), random({m, n}, dtype), random({m, 1}, dtype)}) {
    for (const auto& [beta, alpha] :
         {std::pair{1.0, 1.0}, std::pair{0.5, 2.0}, std::pair{0.0, 1.0}}) {
      const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble),
                       wide_self = self.to(at::kDouble);
      const at::Tensor exact = at::mm(wide_a, wide_b) * alpha + wide_self * beta;
      const at::Tensor magnitude =
          at::mm(wide_a.abs(), wide_b.abs()) * alpha + wide_self.abs() * beta;
      EXPECT_TRUE(is_within(kernels::addmm(self, a, b, beta, alpha), exact,
                            error_bound(exact, magnitude, k + 2, dtype)))
          << "self " << self.sizes() << " beta " << beta << " alpha " << alpha;
    }
  }
}

TEST_P(Matmul, BatchedProductsAreWithinTheirErrorBound) {
  const auto& [shape, dtype] = GetParam();
  const auto [m, n, k] = shape;
  const at::Tensor a = random({3, m, k}, dtype), b = random({3, k, n}, dtype),
                   self = random({3, m, n}, dtype);
  EXPECT_TRUE(is_product(kernels::bmm(a, transposed(b)), a, b));
  const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble),
                   wide_self = self.to(at::kDouble);
  const at::Tensor exact = at::bmm(wide_a, wide_b) + wide_self;
  const at::Tensor magnitude = at::bmm(wide_a.abs(), wide_b.abs()) + wide_self.abs();
  EXPECT_TRUE(is_within(kernels::baddbmm(self, a, b, 1.0, 1.0), exact,
                        error_bound(exact, magnitude, k + 2, dtype)));
}

INSTANTIATE_TEST_SUITE_P(ShapesAndDtypes, Matmul,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(at::kFloat, at::kHalf)),
                         case_name);

TEST(MatmulBound, RejectsProductsRoundedToBf16Inside) {
  const at::Tensor a = random({257, 1024}, at::kFloat), b = random({1024, 129}, at::kFloat);
  const at::Tensor rounded =
      at::mm(a.to(at::kBFloat16).to(at::kFloat), b.to(at::kBFloat16).to(at::kFloat));
  EXPECT_FALSE(is_product(rounded, a, b));
}

TEST(MatmulBound, RejectsFp16AccumulatedInFp16) {
  const at::Tensor a = at::full({1, 4096}, 1.0, at::kHalf), b = at::full({4096, 1}, 1.0, at::kHalf);
  at::Tensor sum = at::zeros({1, 1}, at::kHalf);
  for (int64_t i = 0; i < 4096; ++i) sum.add_(a[0][i]);  // sticks at 2048
  EXPECT_FALSE(is_product(sum, a, b));
  EXPECT_TRUE(is_product(kernels::mm(a, b), a, b));
}

TEST(MatmulBound, RejectsNaN) {
  const at::Tensor a = random({8, 8}, at::kFloat), b = random({8, 8}, at::kFloat);
  at::Tensor product = kernels::mm(a, b);
  product[3][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(is_product(product, a, b));
}

TEST(MatmulFp16, SumsThatFitIntoFp16OnlyAfterCancellationSurvive) {
  // The partial sum reaches 96000 > 65504; the whole is 32000.
  const at::Tensor a = at::tensor({300.0, 300.0, -200.0}).to(at::kHalf).view({1, 3});
  const at::Tensor b = at::tensor({160.0, 160.0, 320.0}).to(at::kHalf).view({3, 1});
  EXPECT_EQ(kernels::mm(a, b).item<float>(), 32000.0f);
}

TEST(MatmulFp32, OneDnnProductIsAsExactAsItsBoundWhereItIsTaken) {
  const at::Tensor a = random({512, 512}, at::kFloat), b = random({512, 512}, at::kFloat);
  if (!onednn::refusal(a, b).empty()) GTEST_SKIP() << onednn::refusal(a, b);
  EXPECT_TRUE(is_product(onednn::mm(a, b), a, b));
}

TEST(MatmulFp32, DeclinesOneDnnWhenTheProcessAllowsBf16Inside) {
  at::globalContext().setFloat32MatmulPrecision("medium");
  EXPECT_NE(onednn::process_refusal(), "");
  at::globalContext().setFloat32MatmulPrecision("highest");
}

TEST(MatmulFp32, DeclinesOneDnnWhereItIsSwitchedOff) {
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_EQ(onednn::process_refusal(), "oneDNN is switched off");
  EXPECT_EQ(product_route(at::kFloat).reason, "oneDNN is switched off");
  at::globalContext().setUserEnabledMkldnn(true);
}

TEST(MatmulFp32, SaysWhichKernelTookTheProductAndWhy) {
  std::string heard;
  set_log_sink([&](std::string_view, std::string_view text) { heard += text; });
  kernels::mm(random({4, 4}, at::kFloat), random({4, 4}, at::kFloat));
  set_log_sink({});
  EXPECT_THAT(heard, ::testing::HasSubstr("4x4x4"));
  EXPECT_THAT(heard, ::testing::HasSubstr("small product"));
}

TEST(MatmulBf16, LinearLayersAddTheirBiasBeforeTheOneRounding) {
  for (const auto& [m, n, k] : kShapes) {
    const at::Tensor a = random({m, k}, at::kBFloat16), weight = random({n, k}, at::kBFloat16),
                     bias = random({n}, at::kBFloat16), b = weight.t();
    const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble),
                     wide_bias = bias.to(at::kDouble);
    const at::Tensor exact = at::addmm(wide_bias, wide_a, wide_b);
    const at::Tensor magnitude = at::addmm(wide_bias.abs(), wide_a.abs(), wide_b.abs());
    const at::Tensor got = kernels::addmm(bias, a, b, 1.0, 1.0);
    EXPECT_EQ(got.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(is_within(got, exact, error_bound(exact, magnitude, k + 1, at::kBFloat16)))
        << m << " x " << n << " x " << k;
  }
}

TEST(MatmulBf16, OtherLayoutsOfABiasedProductAreLibtorchs) {
  const at::Tensor a = random({33, 64}, at::kBFloat16), b = random({64, 31}, at::kBFloat16),
                   bias = random({31}, at::kBFloat16);
  EXPECT_NE(onednn::bf16_linear_refusal(a, b), "");
  EXPECT_NE(onednn::bf16_linear_refusal(transposed(a), transposed(b)), "");
  if (widens(at::kBFloat16)) GTEST_SKIP() << "bf16 is widened here, in every layout";
  EXPECT_BIT_EQUAL(kernels::addmm(bias, a, b, 1.0, 1.0), at::cpu::addmm(bias, a, b, 1.0, 1.0));
}

TEST(MatmulBf16, OneDnnHeldToLessThanAmxDoesNotFillTheCpusTiles) {
  for (const char* isa : {"AVX512_CORE_BF16", "avx512_core_fp16", "AVX2", "SSE41", "AVX10_1_512"})
    EXPECT_TRUE(onednn::hides_amx(isa)) << isa;
  for (const char* isa : {"", "ALL", "DEFAULT", "AVX512_CORE_AMX", "avx10_1_512_amx_fp16"})
    EXPECT_FALSE(onednn::hides_amx(isa)) << isa;
}

// The switch makes any machine one without bf16 in oneDNN.
TEST(MatmulBf16, WithoutOneDnnIsWidenedAndRoundedOnce) {
  at::globalContext().setUserEnabledMkldnn(false);
  const at::Tensor a = random({257, 1024}, at::kBFloat16), b = random({1024, 129}, at::kBFloat16),
                   self = random({257, 129}, at::kBFloat16);
  const at::Tensor wide = kernels::mm(a.to(at::kFloat), b.to(at::kFloat));
  EXPECT_TRUE(widens(at::kBFloat16));
  EXPECT_BIT_EQUAL(kernels::mm(a, b), wide.to(at::kBFloat16));
  EXPECT_TRUE(
      is_product(kernels::bmm(a.unsqueeze(0), b.unsqueeze(0)), a.unsqueeze(0), b.unsqueeze(0)));
  const at::Tensor exact = at::addmm(self.to(at::kDouble), a.to(at::kDouble), b.to(at::kDouble));
  const at::Tensor magnitude =
      at::addmm(self.to(at::kDouble).abs(), a.to(at::kDouble).abs(), b.to(at::kDouble).abs());
  const at::Tensor bound = error_bound(exact, magnitude, 1025, at::kBFloat16);
  EXPECT_TRUE(is_within(kernels::addmm(self, a, b, 1.0, 1.0), exact, bound));
  EXPECT_TRUE(
      is_within(kernels::baddbmm(self.unsqueeze(0), a.unsqueeze(0), b.unsqueeze(0), 1.0, 1.0),
                exact.unsqueeze(0), bound.unsqueeze(0)));
  EXPECT_THAT(product_route(at::kBFloat16).reason, ::testing::HasSubstr("oneDNN is switched off"));
  at::globalContext().setUserEnabledMkldnn(true);
}

TEST(Matmul, BetaZeroIgnoresNaNInSelf) {
  const at::Tensor a = random({128, 128}, at::kFloat), b = random({128, 128}, at::kFloat);
  const at::Tensor self = at::full({128, 128}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(is_product(kernels::addmm(self, a, b, 0.0, 1.0), a, b));
}

TEST(CpuKernels, ServeForwardAndBackwardOfAnUnchangedModel) {
  const CpuKernels kernels;
  at::Tensor x = random({64, 128}, at::kHalf).requires_grad_(),
             weight = random({96, 128}, at::kHalf).requires_grad_();
  const at::Tensor grad = random({64, 96}, at::kHalf);
  at::Tensor y = at::linear(x, weight);
  y.backward(grad);
  EXPECT_TRUE(is_product(y.detach(), x.detach(), weight.detach().t()));
  EXPECT_TRUE(is_product(x.grad(), grad, weight.detach()));
  EXPECT_TRUE(is_product(weight.grad(), grad.t(), x.detach()));
}

TEST(CpuKernels, RestoreLibtorchsOwnWhenTheLastOneGoes) {
  const at::Tensor a = random({96, 512}, at::kFloat), b = random({512, 512}, at::kFloat);
  const at::Tensor own = at::mm(a, b);
  {
    const CpuKernels outer;
    { const CpuKernels inner; }
    EXPECT_TRUE(at::equal(at::mm(a, b), kernels::mm(a, b)));
  }
  EXPECT_TRUE(at::equal(at::mm(a, b), own));
}

TEST(CpuKernels, LeaveLibtorchsErrorMessagesAsTheyAre) {
  const CpuKernels kernels;
  try {
    at::mm(random({3, 4}, at::kHalf), random({5, 6}, at::kHalf));
    FAIL() << "shapes do not match";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"));
  }
}

TEST(CpuKernels, KeepIntegerAndDoubleProducts) {
  const CpuKernels kernels;
  const at::Tensor a = at::arange(6).view({2, 3});
  EXPECT_TRUE(at::equal(at::mm(a, a.t()), at::tensor({5, 14, 14, 50}).view({2, 2}).to(at::kLong)));
  EXPECT_EQ(at::mm(a.to(at::kDouble), a.t().to(at::kDouble)).scalar_type(), at::kDouble);
}

TEST(CpuKernels, KeepComplexProductsAndTheirFactors) {
  const at::Tensor a = at::arange(6).view({2, 3}).to(at::kComplexFloat),
                   bias = at::ones({2}, a.options());
  const c10::complex<double> i(0.0, 1.0);
  const at::Tensor own = at::addmm(bias, a, a.t(), i, i);
  const CpuKernels kernels;
  EXPECT_BIT_EQUAL(at::addmm(bias, a, a.t(), i, i), own);
}

}  // namespace
}  // namespace mezzo::kernels
