#include "mezzo/amp/custom_function.h"

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType forward_dtype, backward_dtype;  // of a product that runs there

at::ScalarType dtype_of_mm(const at::Tensor& x) { return at::mm(x, x).scalar_type(); }

struct InFp32 : Function<InFp32> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x) {
    const CustomFwd fwd(ctx, at::kCPU, at::kFloat);
    forward_dtype = dtype_of_mm(fwd.cast(x));
    return fwd.cast(x) * 2;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const CustomBwd bwd(ctx);
    backward_dtype = dtype_of_mm(grads[0].to(at::kFloat));
    return {grads[0] * 2};
  }
};

struct AsTheRegion : Function<AsTheRegion> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x) {
    const CustomFwd fwd(ctx, at::kCPU);
    forward_dtype = dtype_of_mm(fwd.cast(x));
    return x * 2;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const CustomBwd bwd(ctx);
    backward_dtype = dtype_of_mm(grads[0]);
    return {grads[0] * 2};
  }
};

struct WithoutFwd : Function<WithoutFwd> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& x) { return x * 2; }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const CustomBwd bwd(ctx);
    return grads;
  }
};

at::Tensor input() { return at::ones({4, 4}).requires_grad_(); }

TEST(CustomFunction, WithCastInputsRunsBothWaysInFp32WithAutocastOff) {
  const at::Tensor x = input();
  const Autocast autocast(at::kCPU, at::kBFloat16);
  const at::Tensor y = InFp32::apply(x.to(at::kBFloat16));
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  EXPECT_EQ(forward_dtype, at::kFloat);
  y.sum().backward();  // within the region
  EXPECT_EQ(backward_dtype, at::kFloat);
}

TEST(CustomFunction, WithoutCastInputsRunsBothWaysAsTheRegion) {
  const at::Tensor x = input();
  at::Tensor y;
  {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    y = AsTheRegion::apply(x).sum();
  }
  EXPECT_EQ(forward_dtype, at::kBFloat16);
  y.backward();  // outside the region
  EXPECT_EQ(backward_dtype, at::kBFloat16);
}

TEST(CustomFunction, RunsBackwardUnderThePolicyOfForward) {
  const at::Tensor x = input();
  at::Tensor y;
  {
    const CastPolicyGuard guard(CastPolicy::mezzo().set("mm", CastRule::kFp32));
    const Autocast autocast(at::kCPU, at::kBFloat16);
    y = AsTheRegion::apply(x).sum();
  }
  y.backward();
  EXPECT_EQ(backward_dtype, at::kFloat);
}

TEST(CustomFunction, CastGivesATensorThatForwardMayWriteInto) {
  const at::Tensor w = input();
  AutogradContext ctx;
  const Autocast autocast(at::kCPU, at::kHalf);
  const CustomFwd fwd(&ctx, at::kCPU, at::kHalf);
  {
    const at::NoGradGuard no_grad;
    fwd.cast(w).zero_();
  }
  EXPECT_EQ(fwd.cast(w).sum().item<float>(), 16.0f);
}

TEST(CustomFunction, OutsideARegionChangesNothing) {
  const at::Tensor x = at::ones({4, 4}, at::kBFloat16);
  EXPECT_EQ(InFp32::apply(x).scalar_type(), at::kBFloat16);
  EXPECT_EQ(forward_dtype, at::kBFloat16);
}

TEST(CustomFunction, BackwardWithoutForwardsPartIsRefused) {
  const at::Tensor y = WithoutFwd::apply(input()).sum();
  EXPECT_THROW_WITH(y.backward(), "forward must begin with a CustomFwd");
}

}  // namespace
}  // namespace mezzo
