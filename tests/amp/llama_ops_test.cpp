// The ops mezzo::residual_rms_norm_linear and mezzo::rope under autocast.

#include <string>

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/kernels/rope/rope.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

at::Tensor leaf(at::IntArrayRef sizes) {
  static at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  return at::randn(sizes, generator).requires_grad_();
}

class LlamaOpsAutocast : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LlamaOpsAutocast, NormsStayInFp32AndTheLinearLayerRunsInTheRegionsType) {
  const at::ScalarType dtype = GetParam();
  const at::Tensor x = leaf({33, 31}), branch = leaf({33, 31}).detach().to(dtype),
                   norm_weight = leaf({31}), weight = leaf({9, 31});
  at::Tensor sum, y;
  {
    const Autocast autocast(at::kCPU, dtype);
    std::tie(sum, y) =
        kernels::residual_rms_norm_linear(x, branch, norm_weight, weight, {}, 1e-5, true);
  }
  EXPECT_EQ(sum.scalar_type(), at::kFloat);
  const auto expected = kernels::residual_rms_norm_linear(
      x.detach(), branch, norm_weight.detach(), weight.detach().to(dtype), {}, 1e-5, true);
  EXPECT_BIT_EQUAL(y, std::get<1>(expected));
  y.sum().backward();
  EXPECT_EQ(norm_weight.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
}

TEST_P(LlamaOpsAutocast, RopePassesXAsItComes) {
  const at::Tensor x = leaf({2, 5, 3, 8}), table = kernels::rope_table(5, 8);
  const Autocast autocast(at::kCPU, GetParam());
  EXPECT_BIT_EQUAL(kernels::rope(x, table), kernels::rope(x.detach(), table).detach());
  EXPECT_EQ(kernels::rope(x, table).scalar_type(), at::kFloat);
  EXPECT_EQ(kernels::rope(x.to(GetParam()), table).scalar_type(), GetParam());
}

TEST_P(LlamaOpsAutocast, ARuleForRopeActsOnXAndNeverOnTheTable) {
  const at::Tensor x = leaf({2, 5, 3, 8}), table = kernels::rope_table(5, 8);
  const at::Tensor expected = kernels::rope(x.detach().to(GetParam()), table);
  const CastPolicyGuard guard(CastPolicy::mezzo().set("mezzo::rope", CastRule::kLower));
  const Autocast autocast(at::kCPU, GetParam());
  EXPECT_BIT_EQUAL(kernels::rope(x, table), expected);
}

INSTANTIATE_TEST_SUITE_P(Types, LlamaOpsAutocast, ::testing::Values(at::kBFloat16, at::kHalf),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

}  // namespace
}  // namespace mezzo
