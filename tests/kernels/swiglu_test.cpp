#include "mezzo/kernels/swiglu/swiglu.h"

#include <cmath>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

at::Tensor gate_of(const at::Tensor& gate_up) { return gate_up.chunk(2, -1)[0]; }
at::Tensor up_of(const at::Tensor& gate_up) { return gate_up.chunk(2, -1)[1]; }

/// silu'(g) as its own formula has it, in fp64.
at::Tensor slope_of_silu(const at::Tensor& g) {
  const at::Tensor s = g.sigmoid();
  return s + g * s * (-g).sigmoid();
}

class SwigluOf : public mezzo::testing::OnDevice<at::ScalarType> {
 protected:
  // Gates of every sixteenth of a binade, of both signs, down to 2^-20 and up to 2^6; 31 rows of
  // them, so that no row is a whole number of vectors.
  const at::Tensor gate_up = [] {
    const at::Tensor up = at::arange(-20.0, 6.0, 1.0 / 16).exp2();
    const at::Tensor gates = at::cat({up, -up, at::zeros({1})}).view({-1, 17});
    return at::cat({gates, at::linspace(-3, 3, gates.numel()).view({-1, 17})}, -1).to(GetParam());
  }();
  const at::Tensor exact = gate_up.to(at::kDouble);

  /// One rounding to the dtype, and eight ULP of fp32, of |exact| or of what it is the small rest
  /// of.
  at::Tensor bound(const at::Tensor& value, const at::Tensor& terms) const {
    const FloatFormat& format = float_format(GetParam());
    // A GPU's short exponential and division, in results of 16 bits.
    const double rest = device.is_cuda() && format.epsilon > 0x1p-20 ? 0x1p-14 : 0x1p-20;
    return value.abs() * (format.epsilon / 2) + terms.abs() * rest + format.smallest_subnormal;
  }
};

TEST_P(SwigluOf, IsWithinItsBound) {
  const at::Tensor want = at::silu(gate_of(exact)) * up_of(exact),
                   got = here(swiglu(there(gate_up)));
  EXPECT_EQ(got.scalar_type(), GetParam());
  EXPECT_TRUE(mezzo::testing::is_within(got, want, bound(want, want)));
}

TEST_P(SwigluOf, GradientIsWithinItsBound) {
  const at::Tensor grad = at::full_like(gate_of(gate_up), 0.75),
                   got = here(swiglu_backward(there(grad), there(gate_up)));
  const at::Tensor gate = gate_of(exact), up = up_of(exact);
  const at::Tensor want_gate = 0.75 * up * slope_of_silu(gate), want_up = 0.75 * at::silu(gate);
  EXPECT_EQ(got.scalar_type(), GetParam());
  EXPECT_TRUE(mezzo::testing::is_within(gate_of(got), want_gate, bound(want_gate, up)));
  EXPECT_TRUE(mezzo::testing::is_within(up_of(got), want_up, bound(want_up, want_up)));
}

TEST_P(SwigluOf, MadeAgainWithTheGradientItHasTheSameBits) {
  const at::Tensor grad = there(at::full_like(gate_of(gate_up), 0.75)), from = there(gate_up);
  at::Tensor again;
  const at::Tensor grad_gate_up = swiglu_backward(grad, from, &again);
  EXPECT_BIT_EQUAL(again, swiglu(from));
  EXPECT_BIT_EQUAL(grad_gate_up, swiglu_backward(grad, from));
}

INSTANTIATE_TEST_SUITE_P(Types, SwigluOf,
                         mezzo::testing::on_devices(::testing::Values(at::kFloat, at::kBFloat16,
                                                                      at::kHalf, at::kDouble)),
                         mezzo::testing::device_and([](const auto& param) {
                           return c10::toString(param.param);
                         }));

class SwigluOn : public mezzo::testing::OnDevice<> {};

TEST_P(SwigluOn, IsTheDerivativeThatAutogradFinds) {
  const at::Tensor gate_up = at::linspace(-4, 4, 24, at::kDouble).view({2, 12}).requires_grad_();
  const at::Tensor y = at::silu(gate_of(gate_up)) * up_of(gate_up), grad = at::randn_like(y);
  const at::Tensor want = torch::autograd::grad({y}, {gate_up}, {grad})[0];
  // A dozen roundings of fp64 on numbers below 16.
  EXPECT_CLOSE(here(swiglu_backward(there(grad), there(gate_up.detach()))), want,
               tolerance_for(at::kDouble, 12, 16.0));
}

TEST_P(SwigluOn, LargeGatesPassOrVanishAndTheirSlopesAreOneOrZero) {
  const at::Tensor gate = at::tensor({1e30f, -1e30f, 100.0f, -120.0f});
  const at::Tensor gate_up = there(at::cat({gate, at::full({4}, 2.0f)}));
  EXPECT_BIT_EQUAL(swiglu(gate_up), at::tensor({2e30f, -0.0f, 200.0f, -0.0f}));
  const at::Tensor grad = swiglu_backward(there(at::ones({4})), gate_up);
  EXPECT_BIT_EQUAL(gate_of(grad), at::tensor({2.0f, 0.0f, 2.0f, 0.0f}));
  EXPECT_BIT_EQUAL(up_of(grad), at::tensor({1e30f, -0.0f, 100.0f, -0.0f}));
}

TEST_P(SwigluOn, KeepsNaNInEitherHalf) {
  for (const at::Tensor& gate_up :
       {there(at::tensor({NAN, 1.0f})), there(at::tensor({1.0f, NAN}))}) {
    EXPECT_TRUE(swiglu(gate_up).isnan().all().item<bool>());
    const at::Tensor grad = swiglu_backward(there(at::ones({1})), gate_up);
    EXPECT_TRUE(gate_of(grad).isnan().all().item<bool>());
  }
}

TEST_P(SwigluOn, TakesStridedTensors) {
  const at::Tensor gate_up = there(at::randn({34, 31}).to(at::kBFloat16)).t();
  const at::Tensor grad = there(at::randn({17, 31}).to(at::kBFloat16)).t();
  EXPECT_BIT_EQUAL(swiglu(gate_up), swiglu(gate_up.contiguous()));
  EXPECT_BIT_EQUAL(swiglu_backward(grad, gate_up),
                   swiglu_backward(grad.contiguous(), gate_up.contiguous()));
}

TEST_P(SwigluOn, TakesNoRowsAndNoChannels) {
  const at::Tensor no_rows = at::empty({0, 6}, device), no_channels = at::empty({5, 0}, device);
  EXPECT_EQ(swiglu(no_rows).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_EQ(swiglu(no_channels).sizes(), at::IntArrayRef({5, 0}));
  EXPECT_EQ(swiglu_backward(no_channels, no_channels).sizes(), at::IntArrayRef({5, 0}));
}

TEST_P(SwigluOn, RefusesAGradientOfAnotherShapeOrDtype) {
  const at::Tensor gate_up = there(at::ones({3, 8})), grad = there(at::ones({3, 4}));
  EXPECT_THROW_WITH(swiglu_backward(gate_up, gate_up),
                    "grad must be [3, 4] of Float, but is [3, 8] of Float");
  EXPECT_THROW_WITH(swiglu_backward(grad.slice(0, 0, 2), gate_up), "but is [2, 4] of Float");
  EXPECT_THROW_WITH(swiglu_backward(grad.to(at::kHalf), gate_up), "but is [3, 4] of Half");
}

INSTANTIATE_TEST_SUITE_P(Devices, SwigluOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(Swiglu, RefusesAnOddNumberOfChannels) {
  EXPECT_THROW_WITH(swiglu(at::ones({2, 7})), "but the last size is 7");
}

}  // namespace
}  // namespace mezzo::kernels
