// batch_norm and instance_norm update the statistics that they are given, whatever a rule casts
// those to.

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

struct Statistics {
  at::Tensor mean, var;
  Statistics to(at::ScalarType dtype) const { return {mean.to(dtype), var.to(dtype)}; }
};

void expect_equal(const Statistics& actual, const Statistics& expected) {
  EXPECT_BIT_EQUAL(actual.mean, expected.mean);
  EXPECT_BIT_EQUAL(actual.var, expected.var);
}

// Numbers that bf16 does not have.
Statistics thirds() { return {at::full({3}, 1.0 / 3.0), at::full({3}, 4.0 / 3.0)}; }

at::Tensor input(at::ScalarType dtype) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  return at::randn({8, 3, 16}, generator).to(dtype);
}

struct Op {
  const char* name;
  void (*run)(const at::Tensor& x, const Statistics& statistics, bool trains);
};

std::ostream& operator<<(std::ostream& out, const Op& op) { return out << op.name; }

void batch_norm(const at::Tensor& x, const Statistics& statistics, bool trains) {
  at::batch_norm(x, {}, {}, statistics.mean, statistics.var, trains, 0.1, 1e-5, false);
}

void instance_norm(const at::Tensor& x, const Statistics& statistics, bool trains) {
  at::instance_norm(x, {}, {}, statistics.mean, statistics.var, trains, 0.1, 1e-5, false);
}

class RunningStatistics : public ::testing::TestWithParam<Op> {};

TEST_P(RunningStatistics, OfABf16ModuleAreThoseOfFp32Rounded) {
  const Statistics own = thirds().to(at::kBFloat16), expected = own.to(at::kFloat);
  GetParam().run(input(at::kBFloat16).to(at::kFloat), expected, /*trains=*/true);
  {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    GetParam().run(input(at::kBFloat16), own, /*trains=*/true);
  }
  expect_equal(own, expected.to(at::kBFloat16));
}

TEST_P(RunningStatistics, OfAnFp32ModuleThatIsLoweredAreThoseOfABf16Module) {
  const Statistics own = thirds(), expected = own.to(at::kBFloat16);
  GetParam().run(input(at::kBFloat16), expected, /*trains=*/true);
  {
    const CastPolicyGuard guard(CastPolicy::mezzo().set(GetParam().name, CastRule::kLower));
    const Autocast autocast(at::kCPU, at::kBFloat16);
    GetParam().run(input(at::kBFloat16), own, /*trains=*/true);
  }
  expect_equal(own, expected.to(at::kFloat));
}

TEST_P(RunningStatistics, AreNotRoundedByAnEvaluation) {
  const Statistics own = thirds();
  const CastPolicyGuard guard(CastPolicy::mezzo().set(GetParam().name, CastRule::kLower));
  const Autocast autocast(at::kCPU, at::kBFloat16);
  GetParam().run(input(at::kFloat), own, /*trains=*/false);
  expect_equal(own, thirds());
}

INSTANTIATE_TEST_SUITE_P(Ops, RunningStatistics,
                         ::testing::Values(Op{"batch_norm", &batch_norm},
                                           Op{"instance_norm", &instance_norm}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace mezzo
