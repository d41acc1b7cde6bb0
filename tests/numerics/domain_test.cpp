#include "mezzo/numerics/domain.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

namespace mezzo::numerics {
namespace {

struct Pole {
  const char *op, *overload;
  std::vector<double> at;
  bool is_second = false;  // of the op's arguments, the first being 1
  std::vector<c10::IValue> rest = {};
};

const Pole kPoles[] = {{"log", "", {0.0}},
                       {"log1p", "", {-1.0}},
                       {"xlogy", "Tensor", {0.0}, /*is_second=*/true},
                       {"sqrt", "", {0.0}},
                       {"atanh", "", {-1.0, 1.0}},
                       {"logit", "", {0.0, 1.0}, false, {c10::IValue()}}};

class DomainOf : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(DomainOf, AnOpThatIsKeptInItIsFiniteAtItsPolesAndSoIsItsGradient) {
  for (const Pole& pole : kPoles) {
    const std::string name = std::string("aten::") + pole.op;
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), pole.overload);
    const at::Tensor x = at::tensor(pole.at).to(GetParam()).set_requires_grad(true);
    torch::jit::Stack stack;
    if (pole.is_second) stack.emplace_back(at::ones_like(x));
    stack.emplace_back(x);
    stack.insert(stack.end(), pole.rest.begin(), pole.rest.end());
    keep_in_domain(name, stack, op.schema());
    op.callBoxed(stack);
    const at::Tensor y = stack.back().toTensor();
    EXPECT_TRUE(at::isfinite(y).all().item<bool>()) << name << y;
    y.sum().backward();
    EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>()) << name << x.grad();
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DomainOf, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& param) { return c10::toString(param.param); });

}  // namespace
}  // namespace mezzo::numerics
