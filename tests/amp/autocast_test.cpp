#include "mezzo/amp/autocast.h"

#include <stdexcept>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/variable.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

at::Tensor weight() { return at::ones({4, 4}).requires_grad_(); }
at::ScalarType product_dtype(const at::Tensor& x, const at::Tensor& w) {
  return at::linear(x, w).scalar_type();
}
at::ScalarType product_dtype() { return product_dtype(at::ones({2, 4}), at::ones({4, 4})); }

TEST(Autocast, RunsProductsIn16BitsAndLossesInFp32) {
  const Autocast autocast(at::kCPU, at::kHalf);
  const at::Tensor logits = at::linear(at::ones({2, 4}), at::ones({4, 4}));
  EXPECT_EQ(logits.scalar_type(), at::kHalf);
  EXPECT_EQ(at::cross_entropy_loss(logits, at::zeros({2}, at::kLong)).scalar_type(), at::kFloat);
}

TEST(Autocast, LeavesNothingBehind) {
  { const Autocast autocast(at::kCPU, at::kHalf); }
  EXPECT_EQ(product_dtype(), at::kFloat);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), at::kBFloat16);
}

TEST(Autocast, DefaultDtypeOnACpuIsBf16) {
  const Autocast autocast(at::kCPU);
  EXPECT_EQ(product_dtype(), at::kBFloat16);
}

TEST(Autocast, DisabledIslandRunsInFp32AndRestoresTheRegionAroundIt) {
  const Autocast autocast(at::kCPU, at::kHalf);
  {
    const Autocast island(at::kCPU, std::nullopt, /*enabled=*/false);
    EXPECT_EQ(product_dtype(), at::kFloat);
  }
  EXPECT_EQ(product_dtype(), at::kHalf);
}

TEST(Autocast, NestedRegionOfTheOther16BitTypeDoesNotMeetItsCachedWeights) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Autocast bf16(at::kCPU, at::kBFloat16);
  EXPECT_EQ(product_dtype(x, w), at::kBFloat16);
  {
    const Autocast fp16(at::kCPU, at::kHalf);
    EXPECT_EQ(product_dtype(x, w), at::kHalf);  // libtorch's own cache makes this throw
  }
  EXPECT_EQ(product_dtype(x, w), at::kBFloat16);
}

TEST(Autocast, RestoresOnAnException) {
  EXPECT_THROW(
      {
        const Autocast autocast(at::kCPU, at::kHalf);
        throw std::runtime_error("in the region");
      },
      std::runtime_error);
  EXPECT_EQ(product_dtype(), at::kFloat);
}

TEST(Autocast, BelongsToItsThread) {
  const Autocast autocast(at::kCPU, at::kHalf);
  at::ScalarType elsewhere = at::kHalf;
  std::thread([&] { elsewhere = product_dtype(); }).join();
  EXPECT_EQ(elsewhere, at::kFloat);
}

TEST(Autocast, GradientsOfFp32WeightsAreFp32WhereverBackwardRuns) {
  const at::Tensor outside = weight(), inside = weight();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    loss = at::linear(at::ones({2, 4}), outside).sum();
    at::linear(at::ones({2, 4}), inside).sum().backward();
  }
  loss.backward();
  EXPECT_EQ(outside.grad().scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(outside.grad(), inside.grad()));
  EXPECT_TRUE(at::equal(outside.grad(), at::full({4, 4}, 2.0)));
}

TEST(Autocast, CastsAWeightOnceARegionAndAgainInTheNext) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    at::linear(x, w);
    at::NoGradGuard no_grad;
    w.fill_(3.0);
  }
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_EQ(at::linear(x, w).max().item<float>(), 12.0f);
}

TEST(Autocast, WithoutCacheSeesAnUpdateInsideTheRegion) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Autocast autocast(at::kCPU, at::kHalf, /*enabled=*/true, /*cache_enabled=*/false);
  at::linear(x, w);
  {
    at::NoGradGuard no_grad;
    w.fill_(3.0);
  }
  EXPECT_EQ(at::linear(x, w).max().item<float>(), 12.0f);
}

TEST(Autocast, RefusesADtypeThatIsNot16Bit) {
  EXPECT_THROW_WITH(Autocast(at::kCPU, at::kFloat),
                    "dtype must be Half (fp16) or BFloat16, but is Float");
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
}

TEST(Autocast, RefusesADeviceWithoutAutocast) {
  EXPECT_THROW_WITH(Autocast(at::DeviceType::FPGA, at::kHalf), "device fpga has no autocast");
}

}  // namespace
}  // namespace mezzo
