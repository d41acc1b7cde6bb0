#include "mezzo/optim/clip.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/safetensors.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::magnitude_of;

at::Tensor parameter(const at::Tensor& grad) {
  auto param = at::zeros_like(grad).set_requires_grad(true);
  param.mutable_grad() = grad;
  return param;
}

class ClipGolden
    : public ::testing::TestWithParam<std::tuple<at::ScalarType, const char* /*case*/>> {};

TEST_P(ClipGolden, NormAndGradientsEqualTheReference) {
  const auto [dtype, name] = GetParam();
  const auto golden = load_safetensors(MEZZO_TEST_DATA "/adamw.safetensors").tensors;
  const std::vector<std::string> names{"matrix", "cube", "bias"};
  std::vector<at::Tensor> params;
  int64_t length = 8;
  for (const auto& param : names) {
    params.push_back(parameter(golden.at("grad." + param)[0].to(dtype, false, /*copy=*/true)));
    length += params.back().numel();
  }
  const std::string prefix = std::string("clip_") + name + ".";
  const auto norm = clip_grad_norm_(params, golden.at(prefix + "max_norm").item<double>());

  const auto& expected_norm = golden.at(prefix + "norm");
  EXPECT_CLOSE(norm, expected_norm, tolerance_for(dtype, length, magnitude_of(expected_norm)));
  for (size_t i = 0; i < names.size(); ++i) {
    SCOPED_TRACE(names[i]);
    const auto& expected = golden.at(prefix + "grad." + names[i]);
    EXPECT_CLOSE(params[i].grad(), expected, tolerance_for(dtype, length, magnitude_of(expected)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ClipGolden,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kDouble),
                                            ::testing::Values("below", "above")),
                         [](const auto& test) {
                           return std::string(c10::toString(std::get<0>(test.param))) +
                                  std::get<1>(test.param);
                         });

TEST(Clip, SumsSquaresOfFp16BeyondItsRange) {
  // 300 squared is beyond 65504, and so is the sum of the others' squares.
  const auto param = parameter(at::full({10000}, 300.0, at::kHalf));
  const auto norm = clip_grad_norm_({param}, 1.0);
  EXPECT_EQ(norm.scalar_type(), at::kFloat);
  const double exact = 300.0 * 100.0;
  EXPECT_NEAR(norm.item<double>(), exact, tolerance_for(at::kFloat, 10000, exact));
  // 300 / 30000 = 0.01 in fp16.
  EXPECT_CLOSE(param.grad(), at::full({10000}, 0.01, at::kDouble),
               tolerance_for(at::kHalf, 2, 0.01));
}

TEST(Clip, KeepsSmallFp16GradientsWhoseSquaresUnderflow) {
  const auto param = parameter(at::full({16}, 1e-5, at::kHalf));
  const double element = param.grad()[0].item<double>();
  EXPECT_NEAR(clip_grad_norm_({param}, 1.0).item<double>(), 4 * element,
              tolerance_for(at::kFloat, 32, 4 * element));
}

TEST(Clip, LeavesGradientsUnderTheLimitBitForBit) {
  const auto grad = at::tensor({0.3F, -0.1F, 1e-30F});
  const auto param = parameter(grad.clone());
  clip_grad_norm_({param}, 1.0);
  EXPECT_BIT_EQUAL(param.grad(), grad);
}

TEST(Clip, TakesTheNormOfAllDtypesTogether) {
  const auto half = parameter(at::full({1}, 3.0, at::kBFloat16));
  const auto full = parameter(at::full({1}, 4.0, at::kFloat));
  EXPECT_EQ(clip_grad_norm_({half, full}, 100.0).item<double>(), 5.0);
}

TEST(Clip, TakesTheAbsoluteValuesOfComplexGradients) {
  for (const auto& [complex, real] :
       {std::pair{at::kComplexFloat, at::kFloat}, std::pair{at::kComplexDouble, at::kDouble}}) {
    const auto z = at::complex(at::tensor({3.0, 0.0}, real), at::tensor({4.0, 12.0}, real));
    const auto param = parameter(z.clone()), beside = parameter(at::full({1}, 84.0, real));
    ASSERT_EQ(z.scalar_type(), complex);
    const auto norm = clip_grad_norm_({param, beside}, 42.5);
    EXPECT_EQ(norm.scalar_type(), real);
    // Of 3 + 4i, 12i and 84. Roundings: two in |z|, its square, a sum and a root in a group; the
    // square, a sum and a root of the groups' norms.
    EXPECT_NEAR(norm.item<double>(), 85.0, tolerance_for(real, 8, 85.0));
    // Halved, but for the millionth beside the norm.
    const double tolerance = tolerance_for(real, 8, 6.0) + 6e-6 / 85.0;
    EXPECT_CLOSE(at::view_as_real(param.grad()), at::view_as_real(z) / 2, tolerance);
  }
}

TEST(Clip, CountsAndClipsAParameterListedTwiceOnce) {
  const auto shared = parameter(at::full({4}, 3.0));
  EXPECT_EQ(grad_norm({shared, shared}).item<double>(), 6.0);
  EXPECT_EQ(clip_grad_norm_({shared, shared}, 3.0).item<double>(), 6.0);
  // The limit over the norm and a millionth.
  EXPECT_CLOSE(shared.grad(), at::full({4}, 1.5), tolerance_for(at::kFloat, 4, 1.5) + 1.5e-6 / 6.0);
}

TEST(Clip, AnInfiniteLimitOnlyMeasures) {
  const auto param = parameter(at::full({4}, 10.0));
  EXPECT_EQ(clip_grad_norm_({param}, std::numeric_limits<double>::infinity()).item<double>(), 20.0);
  EXPECT_BIT_EQUAL(param.grad(), at::full({4}, 10.0));
}

TEST(Clip, ReturnsANormThatIsNotFiniteAsItIs) {
  EXPECT_TRUE(std::isinf(clip_grad_norm_({parameter(at::tensor({INFINITY}))}, 1.0).item<double>()));
  EXPECT_TRUE(std::isnan(clip_grad_norm_({parameter(at::tensor({NAN}))}, 1.0).item<double>()));
}

TEST(Clip, OfNoGradientsIsZero) {
  EXPECT_EQ(clip_grad_norm_({}, 1.0).item<double>(), 0.0);
  EXPECT_EQ(clip_grad_norm_({at::ones({3}).set_requires_grad(true)}, 1.0).item<double>(), 0.0);
}

TEST(Clip, RefusesALimitThatIsNotPositive) {
  EXPECT_THROW_WITH(clip_grad_norm_({}, 0.0), "max_norm must be > 0, but is 0");
  EXPECT_THROW_WITH(clip_grad_norm_({}, NAN), "max_norm must be > 0, but is nan");
}

}  // namespace
}  // namespace mezzo::optim
