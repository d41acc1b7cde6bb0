#include "mezzo/kernels/gelu/gelu.h"

#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

class GeluOf : public mezzo::testing::OnDevice<at::ScalarType> {
 protected:
  // Every fourth of a binade's numbers, of both signs, down to 2^-20 and up to 2^7.
  const at::Tensor x = [] {
    const at::Tensor up = at::arange(-20.0, 7.0, 1.0 / 64).exp2();
    return at::cat({up, -up, at::zeros({1})}).to(GetParam());
  }();
  const at::Tensor exact_x = x.to(at::kDouble);

  /// One rounding to the dtype, and eight ULP of fp32, of |exact| or of what it is the small rest
  /// of.
  at::Tensor bound(const at::Tensor& exact, const at::Tensor& terms) const {
    const FloatFormat& format = float_format(GetParam());
    // A GPU's short exponential and division, in results of 16 bits.
    const double rest = device.is_cuda() && format.epsilon > 0x1p-20 ? 0x1p-14 : 0x1p-20;
    return exact.abs() * (format.epsilon / 2) + terms.abs() * rest + format.smallest_subnormal;
  }
};

// One rounding to the dtype, and gelu.h's of fp32. 1 + tanh(u) would cancel, in fp64 too.
TEST_P(GeluOf, IsWithinItsBoundWhereverItIsSmall) {
  if (device.is_cuda()) GTEST_SKIP() << "a GPU's exponential is held to the terms alone";
  if (GetParam() == at::kDouble) GTEST_SKIP() << "libtorch's, which cancels";
  const at::Tensor twice_u = 1.5957691216057308 * (exact_x + 0.044715 * exact_x.pow(3));
  const at::Tensor exact = exact_x * at::sigmoid(twice_u), got = tanh_gelu(x);
  const FloatFormat& format = float_format(GetParam());
  const at::Tensor relative = (4 + 3 * twice_u.abs()) * 0x1p-23 + format.epsilon / 2;
  const at::Tensor is_good = (got.to(at::kDouble) - exact).abs() <= exact.abs() * relative +
                                                                        exact_x.abs() * 0x1p-125 +
                                                                        format.smallest_subnormal;
  EXPECT_TRUE(is_good.all().item<bool>()) << x.masked_select(~is_good);
}

TEST_P(GeluOf, IsWithinItsBoundOfTheTanhForm) {
  const at::Tensor exact = at::gelu(exact_x, "tanh"), got = here(tanh_gelu(there(x)));
  EXPECT_EQ(got.scalar_type(), GetParam());
  const at::Tensor is_good = (got.to(at::kDouble) - exact).abs() <= bound(exact, exact_x * 0x1p-3);
  EXPECT_TRUE(is_good.all().item<bool>()) << x.masked_select(~is_good);
}

TEST_P(GeluOf, GradientIsWithinItsBound) {
  const at::Tensor grad = at::full_like(x, 0.75);
  const at::Tensor exact = at::gelu_backward(grad.to(at::kDouble), exact_x, "tanh");
  const at::Tensor got = here(tanh_gelu_backward(there(grad), there(x)));
  EXPECT_EQ(got.scalar_type(), GetParam());
  const at::Tensor is_good =
      (got.to(at::kDouble) - exact).abs() <= bound(exact, at::ones_like(exact));
  EXPECT_TRUE(is_good.all().item<bool>()) << x.masked_select(~is_good);
}

TEST_P(GeluOf, MadeAgainWithTheGradientItHasTheSameBits) {
  const at::Tensor grad = there(at::full_like(x, 0.75)), x_there = there(x);
  at::Tensor again;
  const at::Tensor grad_x = tanh_gelu_backward(grad, x_there, &again);
  EXPECT_BIT_EQUAL(again, tanh_gelu(x_there));
  EXPECT_BIT_EQUAL(grad_x, tanh_gelu_backward(grad, x_there));
}

INSTANTIATE_TEST_SUITE_P(Types, GeluOf,
                         mezzo::testing::on_devices(::testing::Values(at::kFloat, at::kBFloat16,
                                                                      at::kHalf, at::kDouble)),
                         mezzo::testing::device_and([](const auto& param) {
                           return c10::toString(param.param);
                         }));

class GeluOn : public mezzo::testing::OnDevice<> {};

TEST_P(GeluOn, LargeNumbersPassOrVanishAndTheirGradientsAreOneOrZero) {
  const at::Tensor x = there(at::tensor({1e30f, -1e30f, 50.0f, -50.0f})),
                   ones = there(at::ones({4}));
  EXPECT_BIT_EQUAL(tanh_gelu(x), at::tensor({1e30f, -0.0f, 50.0f, -0.0f}));
  EXPECT_BIT_EQUAL(tanh_gelu_backward(ones, x), at::tensor({1.0f, 0.0f, 1.0f, 0.0f}));
}

TEST_P(GeluOn, KeepsNaN) {
  const at::Tensor x = there(at::tensor({NAN})), one = there(at::ones({1}));
  EXPECT_TRUE(tanh_gelu(x).isnan().item<bool>());
  EXPECT_TRUE(tanh_gelu_backward(one, x).isnan().item<bool>());
}

TEST_P(GeluOn, TakesStridedTensors) {
  const at::Tensor x = there(at::randn({33, 31}).to(at::kBFloat16)).t();
  EXPECT_TRUE(at::equal(tanh_gelu(x), tanh_gelu(x.contiguous())));
  EXPECT_TRUE(
      at::equal(tanh_gelu_backward(x, x), tanh_gelu_backward(x.contiguous(), x.contiguous())));
}

TEST_P(GeluOn, RefusesAGradientOfAnotherShapeOrDtype) {
  const at::Tensor x = there(at::ones({3, 4}));
  EXPECT_THROW_WITH(tanh_gelu_backward(there(at::ones({3, 3})), x),
                    "grad must be as x, [3, 4] of Float, but is [3, 3] of Float");
  EXPECT_THROW_WITH(tanh_gelu_backward(x.to(at::kHalf), x), "but is [3, 4] of Half");
}

INSTANTIATE_TEST_SUITE_P(Devices, GeluOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

}  // namespace
}  // namespace mezzo::kernels
