// Faults of torch.amp.GradScaler 2.11, each shown with the ATen ops that it calls, in the order in
// which it calls them, and beside it what Mezzo does.

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/base/check.h"
#include "tests/amp/fused_sgd.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// ---- The dead scale.

at::Tensor inverse_of(const at::Tensor& scale) {
  return scale.to(at::kDouble).reciprocal().to(at::kFloat);
}

TEST(TorchAmpFault, AScaleHalvedTooOftenMakesFiniteGradientsInfiniteUnseen) {
  at::Tensor scale = at::full({}, 65536.0), tracker = at::zeros({}, at::kInt);
  for (int overflow = 0; overflow < 144; ++overflow) {
    at::_amp_update_scale_(scale, tracker, at::ones({}), 2.0, 0.5, 2000);
  }
  EXPECT_EQ(scale.item<float>(), 0x1p-128f);
  const at::Tensor grad = at::full({2}, 0x1p-100f);
  at::Tensor found_inf = at::zeros({});
  at::_amp_foreach_non_finite_check_and_unscale_({grad}, found_inf, inverse_of(scale));
  EXPECT_EQ(found_inf.item<float>(), 0.0f);  // so the step would be taken
  EXPECT_EQ(grad[0].item<float>(), kInf);
}

TEST(Mezzo, AScaleHalvedAsOftenStaysAtItsFloorAndFiniteGradientsStayFinite) {
  // 2^-126 is the lowest floor that can be asked for.
  for (const double floor : {1.0, 0x1p-126}) {
    const at::Tensor parameter = at::ones({2}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter}, 1.0);
    GradScaler scaler(at::kCPU, {.min_scale = floor, .error_at_min_scale = false});
    scaler.scale(at::ones({}));
    for (int overflow = 0; overflow < 200; ++overflow) {
      parameter.mutable_grad() = at::full({2}, kInf);
      scaler.step(optimizer);
      scaler.update();
    }
    EXPECT_EQ(scaler.get_scale(), floor);
    parameter.mutable_grad() = at::full({2}, 0x1p-10 * floor, at::kFloat);
    EXPECT_TRUE(scaler.step(optimizer).stepped());
    EXPECT_EQ(parameter[0].item<float>(), 1.0f - 0x1p-10f);
  }
}

TEST(Mezzo, RefusesAFloorWhoseInverseIsInfinite) {
  EXPECT_EQ(inverse_of(at::full({}, 0x1p-128)).item<float>(), kInf);
  EXPECT_THROW_WITH(GradScaler(at::kCPU, {.min_scale = 0x1p-128}), "min_scale must be >= 2^-126");
}

// ---- The sum of found_inf.

TEST(TorchAmpFault, AFusedOptimizerStepsWhereTwoDevicesOverflow) {
  const at::Tensor found_inf = at::ones({}) + at::ones({});  // torch adds those of the devices
  const at::Tensor parameter = at::ones({2}), grad = at::full({2}, kInf);
  at::_fused_sgd_({parameter}, {grad}, {}, 0.0, 0.0, 0.125, 0.0, false, false, false, std::nullopt,
                  found_inf);
  EXPECT_EQ(parameter[0].item<float>(), -kInf);
}

TEST(Mezzo, AFusedOptimizerSkipsHoweverManyOverflow) {
  // Two ranks that both overflow, summed as torch's sharded scaler sums them.
  const at::Tensor parameter = at::ones({2}).requires_grad_();
  testing::FusedSgd optimizer({parameter}, 0.125);
  GradScaler scaler(at::kCPU, {.reduce_found_inf = [](at::Tensor& found) { found.mul_(2); }});
  scaler.scale(at::ones({}));
  parameter.mutable_grad() = at::full({2}, kInf);
  EXPECT_FALSE(scaler.step(optimizer).stepped());
  EXPECT_EQ(parameter[0].item<float>(), 1.0f);
}

TEST(Mezzo, TwoFusedOptimizersThatOverflowTogetherBothSkip) {
  const at::Tensor a = at::ones({2}).requires_grad_(), b = at::ones({2}).requires_grad_();
  testing::FusedSgd first({a}, 0.125), second({b}, 0.125);
  GradScaler scaler(at::kCPU);
  scaler.scale(at::ones({}));
  a.mutable_grad() = at::full({2}, kInf);
  b.mutable_grad() = at::full({2}, kInf);
  EXPECT_FALSE(scaler.step({&first, &second}).stepped());
  EXPECT_EQ(a[0].item<float>(), 1.0f);
  EXPECT_EQ(b[0].item<float>(), 1.0f);
}

// ---- The 16-bit loss.

TEST(TorchAmpFault, AnFp16LossOfOneDimensionIsInfiniteOnceScaled) {
  const at::Tensor loss = at::full({3}, 8.0, at::kHalf);
  const at::Tensor scaled = loss * at::full({}, 65536.0);  // a 0-dim fp32 tensor does not promote
  EXPECT_EQ(scaled.scalar_type(), at::kHalf);
  EXPECT_EQ(scaled[0].item<float>(), kInf);
}

TEST(Mezzo, LossesOfAnyShapeAndTypeAreScaledWithoutOverflow) {
  GradScaler scaler(at::kCPU);
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{}, {1}, {3}, {2, 3}}) {
      const at::Tensor loss = at::full(shape, 8.0, dtype).requires_grad_();
      const at::Tensor scaled = scaler.scale(loss);
      EXPECT_EQ(scaled.sizes(), loss.sizes());
      EXPECT_EQ(scaled.scalar_type(), dtype == at::kDouble ? at::kDouble : at::kFloat);
      EXPECT_EQ(scaled.max().item<double>(), 8.0 * 65536.0) << dtype;
      EXPECT_TRUE(scaled.requires_grad());
    }
  }
}

// ---- Growth by equality.

TEST(TorchAmpFault, AnIntervalLoweredBelowTheTrackerNeverGrowsTheScale) {
  at::Tensor scale = at::full({}, 4.0), tracker = at::zeros({}, at::kInt);
  const at::Tensor good = at::zeros({});
  for (int step = 0; step < 10; ++step) at::_amp_update_scale_(scale, tracker, good, 2.0, 0.5, 100);
  for (int step = 0; step < 50; ++step) at::_amp_update_scale_(scale, tracker, good, 2.0, 0.5, 3);
  EXPECT_EQ(scale.item<float>(), 4.0f);
  EXPECT_EQ(tracker.item<int32_t>(), 60);
}

GradScaler scaler_after_ten_good_steps() {
  GradScaler scaler(at::kCPU, {.init_scale = 4.0, .growth_interval = 100});
  const at::Tensor parameter = at::ones({2}).requires_grad_();
  torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter}, 0.0);
  for (int step = 0; step < 10; ++step) {
    scaler.scale(parameter.sum()).backward();
    scaler.step(optimizer);
    scaler.update();
  }
  return scaler;
}

void good_step(GradScaler& scaler) {
  const at::Tensor parameter = at::ones({2}).requires_grad_();
  torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter}, 0.0);
  scaler.scale(parameter.sum()).backward();
  scaler.step(optimizer);
  scaler.update();
}

TEST(Mezzo, AnIntervalLoweredBelowTheTrackerGrowsAtTheNextGoodStep) {
  GradScaler scaler = scaler_after_ten_good_steps();
  scaler.set_growth_interval(3);
  good_step(scaler);
  EXPECT_EQ(scaler.get_scale(), 8.0);
}

TEST(Mezzo, ALoadedTrackerBeyondTheIntervalGrowsAtTheNextGoodStep) {
  GradScalerState state = scaler_after_ten_good_steps().state_dict().value();
  state.growth_interval = 3;
  GradScaler fresh(at::kCPU), used(at::kCPU);
  used.scale(at::ones({}));
  for (GradScaler* scaler : {&fresh, &used}) {
    scaler->load_state_dict(state);
    good_step(*scaler);
    EXPECT_EQ(scaler->get_scale(), 8.0);
  }
}

}  // namespace
}  // namespace mezzo
