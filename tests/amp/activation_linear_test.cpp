// The ops mezzo::gelu_linear and mezzo::swiglu_linear under autocast.

#include <optional>
#include <string>
#include <tuple>

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

using Op = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                          bool);

class ActivationLinearAutocast : public ::testing::TestWithParam<std::tuple<Op, at::ScalarType>> {};

TEST_P(ActivationLinearAutocast, RunsInTheRegionsTypeAndGivesFp32Gradients) {
  const auto [op, dtype] = GetParam();
  const int64_t channels = op == kernels::swiglu_linear ? 62 : 31;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const at::Tensor x = at::randn({33, channels}, generator).requires_grad_(),
                   weight = at::randn({9, 31}, generator).requires_grad_(),
                   bias = at::randn({9}, generator).requires_grad_();
  at::Tensor y;
  {
    const Autocast autocast(at::kCPU, dtype);
    y = op(x, weight, bias, true);
  }
  const at::Tensor low_x = x.detach().to(dtype).requires_grad_(),
                   low_weight = weight.detach().to(dtype).requires_grad_();
  const at::Tensor expected = op(low_x, low_weight, bias.detach(), true);
  EXPECT_BIT_EQUAL(y, expected);
  y.sum().backward();
  expected.sum().backward();
  EXPECT_BIT_EQUAL(x.grad(), low_x.grad().to(at::kFloat));
  EXPECT_BIT_EQUAL(weight.grad(), low_weight.grad().to(at::kFloat));
  EXPECT_EQ(bias.grad().scalar_type(), at::kFloat);
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Op, at::ScalarType>>& test) {
  const char* op = std::get<Op>(test.param) == kernels::swiglu_linear ? "Swiglu" : "Gelu";
  return std::string(op) + c10::toString(std::get<at::ScalarType>(test.param));
}

INSTANTIATE_TEST_SUITE_P(All, ActivationLinearAutocast,
                         ::testing::Combine(::testing::Values(&kernels::gelu_linear,
                                                              &kernels::swiglu_linear),
                                            ::testing::Values(at::kBFloat16, at::kHalf)),
                         name_of);

}  // namespace
}  // namespace mezzo
