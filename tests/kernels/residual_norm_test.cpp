#include "mezzo/kernels/residual_norm/residual_norm.h"

#include <tuple>
#include <vector>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr double kEps = 1e-5;

const Random random(2);

at::Tensor exact(const at::Tensor& x) { return x.defined() ? x.to(at::kCPU, at::kDouble) : x; }

/// The bound of a value after `fp32_roundings` of numbers up to `magnitude` and one to `dtype`.
double bound(at::ScalarType dtype, int64_t fp32_roundings, double magnitude) {
  return tolerance_for(at::kFloat, fp32_roundings, magnitude) + tolerance_for(dtype, 1, magnitude);
}

/// libtorch's op, which knows nothing of ours.
at::Tensor plain_norm(NormKind kind, const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias) {
  if (kind == NormKind::kLayer) return at::layer_norm(x, weight.sizes(), weight, bias, kEps);
  const at::Tensor normed = at::rms_norm(x, weight.sizes(), weight, kEps);
  return bias.defined() ? normed + bias : normed;
}

/// Dtypes of stream and of what is normalised; rows; C.
using Shape = std::tuple<at::ScalarType, at::ScalarType, int64_t, int64_t>;
using Case = std::tuple<Shape, NormKind>;

class ResidualNormOf : public mezzo::testing::OnDevice<Case> {
 protected:
  ResidualNormOf() {
    std::tie(stream, out, rows, C) = std::get<Shape>(GetParam());
    x = random({rows, C}, stream);
    branch = random({rows, C}, out);
    weight = random({C}, at::kFloat);
    bias = random({C}, at::kFloat);
    grad = random({rows, C}, out);
    grad_sum = random({rows, C}, stream);
  }

  ResidualNorm norm_of_all() const {
    return residual_norm(there(x), there(branch), there(weight), there(bias), kEps, out, kind);
  }

  double magnitude_of_terms(const at::Tensor& normed) const {
    return 4 * mezzo::testing::magnitude_of(normed) + mezzo::testing::magnitude_of(bias);
  }

  const NormKind kind = std::get<NormKind>(GetParam());
  at::ScalarType stream, out;
  int64_t rows, C;
  at::Tensor x, branch, weight, bias, grad, grad_sum;
};

TEST_P(ResidualNormOf, SumIsRoundedOnceAndTheNormIsWithinItsBound) {
  const ResidualNorm got = norm_of_all();
  EXPECT_BIT_EQUAL(here(got.sum), (x + branch).to(stream));
  EXPECT_EQ(got.normed.scalar_type(), out);
  const at::Tensor want = plain_norm(kind, exact(got.sum), exact(weight), exact(bias));
  EXPECT_CLOSE(here(got.normed), want, bound(out, C + 4, magnitude_of_terms(want)));
  if (kind == NormKind::kLayer) {
    EXPECT_CLOSE(here(got.mean), exact(got.sum).mean(-1), bound(at::kFloat, C, 4.0));
  } else {
    EXPECT_FALSE(got.mean.defined());
  }
}

TEST_P(ResidualNormOf, TheReferenceIsLibtorchsNorm) {
  const ResidualNorm got = reference::residual_norm(exact(x), exact(branch), exact(weight),
                                                    exact(bias), kEps, at::kDouble, kind);
  const at::Tensor want = plain_norm(kind, exact(x) + exact(branch), exact(weight), exact(bias));
  EXPECT_CLOSE(got.normed, want, 2 * tolerance_for(at::kDouble, C + 4, magnitude_of_terms(want)));
}

TEST_P(ResidualNormOf, WithoutABranchTheSumIsTheStreamItself) {
  const at::Tensor stream_there = there(x);
  const ResidualNorm got = residual_norm(stream_there, {}, there(weight), {}, kEps, out, kind);
  EXPECT_TRUE(got.sum.is_same(stream_there));
  const at::Tensor want = plain_norm(kind, exact(x), exact(weight), {});
  EXPECT_CLOSE(got.normed, want, bound(out, C + 4, 4 * mezzo::testing::magnitude_of(want)));
}

TEST_P(ResidualNormOf, TheNormMadeAgainHasTheSameBits) {
  const ResidualNorm got = norm_of_all();
  EXPECT_BIT_EQUAL(norm_again(got.sum, got.mean, got.rstd, there(weight), there(bias), out),
                   got.normed);
}

TEST_P(ResidualNormOf, GradientsAreThoseOfTheDefinitionInFp64) {
  const ResidualNorm norm = norm_of_all();
  const at::Tensor leaf = exact(norm.sum).requires_grad_();
  const at::Tensor w = exact(weight).requires_grad_(), b = exact(bias).requires_grad_();
  const at::Tensor y = plain_norm(kind, leaf, w, b);
  ((y * exact(grad)).sum() + (leaf * exact(grad_sum)).sum()).backward();
  const ResidualNormGrads got =
      residual_norm_backward(there(grad), there(grad_sum), norm.sum, norm.mean, norm.rstd,
                             there(weight), there(bias), {.branch = true, .normed = true});
  EXPECT_BIT_EQUAL(got.branch, got.x.to(out));
  EXPECT_BIT_EQUAL(got.normed, norm.normed);
  EXPECT_EQ(got.x.scalar_type(), stream);
  // Terms of a row: rstd, grad, weight and the unit, whose magnitudes multiply.
  const double terms = mezzo::testing::magnitude_of(norm.rstd) *
                           mezzo::testing::magnitude_of(grad) *
                           mezzo::testing::magnitude_of(weight) * 16 +
                       mezzo::testing::magnitude_of(grad_sum);
  EXPECT_CLOSE(here(got.x), leaf.grad(), bound(stream, 2 * C + 8, terms));
  const double sums = 4 * mezzo::testing::magnitude_of(grad) * static_cast<double>(rows);
  EXPECT_CLOSE(here(got.weight), w.grad(), bound(at::kFloat, rows + C, sums));
  EXPECT_CLOSE(here(got.bias), b.grad(), bound(at::kFloat, rows, sums));
}

std::string case_name(const ::testing::TestParamInfo<Case>& param) {
  const auto& [shape, kind] = param.param;
  const auto& [stream, out, rows, C] = shape;
  return fmt::format("{}_{}_{}_{}x{}", kind == NormKind::kRms ? "rms" : "layer",
                     c10::toString(stream), c10::toString(out), rows, C);
}

INSTANTIATE_TEST_SUITE_P(Types, ResidualNormOf,
                         mezzo::testing::on_devices(::testing::Combine(
                             ::testing::Values(Shape{at::kFloat, at::kFloat, 33, 257},
                                               Shape{at::kFloat, at::kBFloat16, 257, 31},
                                               Shape{at::kFloat, at::kHalf, 1, 768},
                                               Shape{at::kBFloat16, at::kBFloat16, 33, 33},
                                               Shape{at::kHalf, at::kHalf, 130, 64},
                                               Shape{at::kFloat, at::kBFloat16, 31, 1}),
                             ::testing::Values(NormKind::kLayer, NormKind::kRms))),
                         mezzo::testing::device_and(case_name));

class ResidualNormOn : public mezzo::testing::OnDevice<> {};

class ResidualNormThreads : public ::testing::TestWithParam<NormKind> {};

TEST_P(ResidualNormThreads, HasTheSameBitsForAnyNumber) {
  const at::Tensor x = random({333, 96}, at::kFloat), branch = random({333, 96}, at::kBFloat16),
                   weight = random({96}, at::kFloat), bias = random({96}, at::kFloat);
  std::vector<ResidualNormGrads> grads;
  std::vector<at::Tensor> normed;
  const int before = at::get_num_threads();
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    const ResidualNorm norm =
        residual_norm(x, branch, weight, bias, kEps, at::kBFloat16, GetParam());
    normed.push_back(norm.normed);
    grads.push_back(
        residual_norm_backward(branch, x, norm.sum, norm.mean, norm.rstd, weight, bias));
  }
  at::set_num_threads(before);
  for (size_t i = 1; i < grads.size(); ++i) {
    EXPECT_BIT_EQUAL(normed[i], normed[0]);
    EXPECT_BIT_EQUAL(grads[i].x, grads[0].x);
    EXPECT_BIT_EQUAL(grads[i].weight, grads[0].weight);
    EXPECT_BIT_EQUAL(grads[i].bias, grads[0].bias);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ResidualNormThreads,
                         ::testing::Values(NormKind::kLayer, NormKind::kRms), [](const auto& kind) {
                           return kind.param == NormKind::kRms ? "rms" : "layer";
                         });

TEST_P(ResidualNormOn, TakesStridedRowsAndMoreDimensions) {
  const at::Tensor x = there(random({5, 7, 3}, at::kFloat)).transpose(0, 2),
                   weight = there(random({5}, at::kFloat));
  const at::Tensor branch = there(random({5, 7, 3}, at::kBFloat16)).transpose(0, 2);
  const ResidualNorm got = residual_norm(x, branch, weight, {}, kEps, at::kBFloat16);
  const ResidualNorm want =
      residual_norm(x.contiguous(), branch.contiguous(), weight, {}, kEps, at::kBFloat16);
  if (device.is_cpu()) {
    EXPECT_BIT_EQUAL(got.normed, want.normed);
  } else {  // where the order of a sum may depend on the strides
    EXPECT_CLOSE(got.normed, want.normed,
                 2 * bound(at::kBFloat16, 5 + 4, 4 * mezzo::testing::magnitude_of(want.normed)));
  }
  EXPECT_EQ(got.mean.sizes(), (std::vector<int64_t>{3, 7}));
}

TEST_P(ResidualNormOn, ANaNStaysInItsRow) {
  at::Tensor x = random({3, 40}, at::kFloat);
  x[1][7] = NAN;
  const at::Tensor ones = there(at::ones({40})),
                   normed = residual_norm(there(x), {}, ones, {}, kEps, at::kBFloat16).normed;
  EXPECT_TRUE(normed[1].isnan().all().item<bool>());
  EXPECT_TRUE(normed[0].isfinite().all().item<bool>());
  EXPECT_TRUE(normed[2].isfinite().all().item<bool>());
}

TEST_P(ResidualNormOn, StatisticsOf16BitsWouldBeOutsideTheBound) {
  const at::Tensor x = random({64, 768}, at::kFloat) + 3.0, weight = at::ones({768});
  const ResidualNorm want =
      reference::residual_norm(exact(x), {}, exact(weight), {}, kEps, at::kDouble);
  const at::Tensor sabotaged = x.to(at::kBFloat16).mean(-1).to(at::kFloat);
  const double tolerance = tolerance_for(at::kFloat, 768, 8.0);
  EXPECT_CLOSE(residual_norm(there(x), {}, there(weight), {}, kEps, at::kFloat).mean, want.mean,
               tolerance);
  EXPECT_FALSE(mezzo::testing::is_close(sabotaged, want.mean, tolerance));
}

// 66000 is Inf in fp16, and what is rounded twice is not what is rounded once.
TEST_P(ResidualNormOn, ABranchOfAnotherTypeIsNotRoundedBeforeTheSum) {
  const at::Tensor ones = at::ones({64});
  for (const at::ScalarType stream : {at::kHalf, at::kBFloat16, at::kFloat}) {
    for (const at::ScalarType other : {at::kHalf, at::kBFloat16, at::kFloat}) {
      at::Tensor x = random({33, 64}, stream), branch = random({33, 64}, other);
      x[0][0] = -1000.0;
      branch[0][0] = 66000.0;
      const ResidualNorm got =
          residual_norm(there(x), there(branch), there(ones), {}, kEps, stream);
      EXPECT_BIT_EQUAL(here(got.sum), (x.to(at::kFloat) + branch.to(at::kFloat)).to(stream))
          << stream << " + " << other;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, ResidualNormOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(ResidualNorm, RefusesShapesThatDisagree) {
  const at::Tensor x = random({4, 8}, at::kFloat);
  EXPECT_THROW_WITH(residual_norm(x, {}, at::ones({7}), {}, kEps, at::kFloat), "[4, 8]");
  EXPECT_THROW_WITH(residual_norm(x, at::ones({4, 7}), at::ones({8}), {}, kEps, at::kFloat),
                    "branch must have the shape of x");
  EXPECT_THROW_WITH(residual_norm(x, {}, at::ones({8}), at::ones({7}), kEps, at::kFloat),
                    "bias must have the shape of weight, [8], but has [7]");
}

TEST(ResidualNorm, RefusesTensorsOfSeveralDevices) {
  const at::Tensor x = random({4, 8}, at::kFloat), elsewhere = at::ones({8}, at::kMeta);
  EXPECT_THROW_WITH(residual_norm(x, {}, elsewhere, {}, kEps, at::kFloat, NormKind::kRms),
                    "weight must be on the device of x, cpu, but is on meta");
}

// A mean beside which the variance is small: what LayerNorm takes away, RMSNorm keeps.
TEST(ResidualNorm, OfRmsSubtractsNoMean) {
  const at::Tensor x = at::full({2, 64}, 3.0), ones = at::ones({64});
  const ResidualNorm norm = residual_norm(x, {}, ones, {}, 0.0, at::kFloat, NormKind::kRms);
  EXPECT_BIT_EQUAL(norm.normed, at::ones({2, 64}));
  EXPECT_BIT_EQUAL(residual_norm(x, {}, ones, {}, kEps, at::kFloat).normed, at::zeros({2, 64}));
}

}  // namespace
}  // namespace mezzo::kernels
