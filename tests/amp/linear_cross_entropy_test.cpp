// The op mezzo::linear_cross_entropy under autocast.

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/cast_table.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr const char* kOp = "mezzo::linear_cross_entropy";

/// fp32 parameters and input, as a model has them.
struct Head {
  at::Tensor x, weight, targets;
};

Head make_head() {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  return {at::randn({33, 31}, generator).requires_grad_(),
          at::randn({257, 31}, generator).requires_grad_(),
          at::randint(257, {33}, generator, at::kLong)};
}

class LinearCrossEntropyAutocast : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LinearCrossEntropyAutocast, RunsInTheRegionsTypeAndGivesFp32LossAndGradients) {
  const Head head = make_head(), lowered = make_head();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, GetParam());
    loss = kernels::linear_cross_entropy(head.x, head.weight, head.targets);
  }
  const at::Tensor expected = kernels::linear_cross_entropy(
      lowered.x.to(GetParam()), lowered.weight.to(GetParam()), lowered.targets);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(loss, expected));
  loss.backward();
  expected.backward();
  EXPECT_EQ(head.weight.grad().scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(head.weight.grad(), lowered.weight.grad()));
  EXPECT_TRUE(at::equal(head.x.grad(), lowered.x.grad()));
}

TEST_P(LinearCrossEntropyAutocast, IsAutocastInItsPartsWhereThePolicyHasNoRule) {
  for (const CastPolicy& policy : {CastPolicy::pytorch_cpu(), CastPolicy::pytorch_cuda()}) {
    const Head head = make_head();
    const CastPolicyGuard guard(policy);
    const Autocast autocast(at::kCPU, GetParam());
    const at::Tensor parts =
        at::cross_entropy_loss(at::linear(head.x, head.weight).to(at::kFloat), head.targets);
    EXPECT_TRUE(at::equal(kernels::linear_cross_entropy(head.x, head.weight, head.targets), parts));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LinearCrossEntropyAutocast,
                         ::testing::Values(at::kBFloat16, at::kHalf),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST(LinearCrossEntropyPolicy, OnlyTheMezzoPolicyHasARuleForIt) {
  for (const c10::DeviceType device : {at::kCPU, at::kCUDA}) {
    EXPECT_EQ(CastPolicy::mezzo().rule(kOp, device), CastRule::kLower);
    EXPECT_EQ(CastPolicy::pytorch_cpu().rule(kOp, device), std::nullopt);
    EXPECT_EQ(CastPolicy::pytorch_cuda().rule(kOp, device), std::nullopt);
  }
}

TEST(LinearCrossEntropyPolicy, RuleCanBeChangedByItsName) {
  const Head head = make_head();
  const at::Tensor expected = kernels::linear_cross_entropy(head.x, head.weight, head.targets);
  const CastPolicyGuard guard(CastPolicy::mezzo().set(kOp, CastRule::kFp32));
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_TRUE(
      at::equal(kernels::linear_cross_entropy(head.x, head.weight, head.targets), expected));
}

TEST(CastTable, NamesOnlyMezzosOwnOpsOutsideAten) {
  for (const CastTableRow& row : cast_table()) {
    EXPECT_EQ(row.op.find("::") != std::string_view::npos, row.is_own()) << row.op;
    if (row.is_own()) {
      EXPECT_FALSE(row.pytorch_cuda.has_value() || row.pytorch_cpu.has_value()) << row.op;
      EXPECT_TRUE(row.mezzo.has_value()) << row.op;
    }
  }
}

}  // namespace
}  // namespace mezzo
