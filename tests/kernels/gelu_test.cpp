#include "mezzo/kernels/gelu/gelu.h"

#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

class GeluOf : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  // Every fourth of a binade's numbers, of both signs, down to 2^-20 and up to 2^7.
  const at::Tensor x = [] {
    const at::Tensor up = at::arange(-20.0, 7.0, 1.0 / 64).exp2();
    return at::cat({up, -up, at::zeros({1})}).to(GetParam());
  }();
  const at::Tensor exact_x = x.to(at::kDouble);

  /// One rounding to the dtype, and eight ULP of fp32, of |exact| or of what it is the small rest
  /// of.
  static at::Tensor bound(const at::Tensor& exact, const at::Tensor& terms) {
    const FloatFormat& format = float_format(GetParam());
    return exact.abs() * (format.epsilon / 2) + terms.abs() * 0x1p-20 + format.smallest_subnormal;
  }
};

TEST_P(GeluOf, IsWithinItsBoundOfTheTanhForm) {
  const at::Tensor exact = at::gelu(exact_x, "tanh"), got = tanh_gelu(x);
  EXPECT_EQ(got.scalar_type(), GetParam());
  const at::Tensor is_good = (got.to(at::kDouble) - exact).abs() <= bound(exact, exact_x * 0x1p-3);
  EXPECT_TRUE(is_good.all().item<bool>()) << x.masked_select(~is_good);
}

TEST_P(GeluOf, GradientIsWithinItsBound) {
  const at::Tensor grad = at::full_like(x, 0.75);
  const at::Tensor exact = at::gelu_backward(grad.to(at::kDouble), exact_x, "tanh");
  const at::Tensor got = tanh_gelu_backward(grad, x);
  EXPECT_EQ(got.scalar_type(), GetParam());
  const at::Tensor is_good =
      (got.to(at::kDouble) - exact).abs() <= bound(exact, at::ones_like(exact));
  EXPECT_TRUE(is_good.all().item<bool>()) << x.masked_select(~is_good);
}

INSTANTIATE_TEST_SUITE_P(Types, GeluOf,
                         ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf, at::kDouble),
                         [](const auto& param) { return c10::toString(param.param); });

TEST(Gelu, LargeNumbersPassOrVanishAndTheirGradientsAreOneOrZero) {
  const at::Tensor x = at::tensor({1e30f, -1e30f, 50.0f, -50.0f}), ones = at::ones({4});
  EXPECT_BIT_EQUAL(tanh_gelu(x), at::tensor({1e30f, -0.0f, 50.0f, -0.0f}));
  EXPECT_BIT_EQUAL(tanh_gelu_backward(ones, x), at::tensor({1.0f, 0.0f, 1.0f, 0.0f}));
}

TEST(Gelu, KeepsNaN) {
  EXPECT_TRUE(tanh_gelu(at::tensor({NAN})).isnan().item<bool>());
  EXPECT_TRUE(tanh_gelu_backward(at::ones({1}), at::tensor({NAN})).isnan().item<bool>());
}

TEST(Gelu, TakesStridedTensors) {
  const at::Tensor x = at::randn({33, 31}).to(at::kBFloat16).t();
  EXPECT_TRUE(at::equal(tanh_gelu(x), tanh_gelu(x.contiguous())));
  EXPECT_TRUE(
      at::equal(tanh_gelu_backward(x, x), tanh_gelu_backward(x.contiguous(), x.contiguous())));
}

}  // namespace
}  // namespace mezzo::kernels
