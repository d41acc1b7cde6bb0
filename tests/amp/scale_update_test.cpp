#include "mezzo/amp/scale_update.h"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr double kMaxFloat = std::numeric_limits<float>::max();

ScaleTensors tensors_at(double scale, int64_t hysteresis = 1) {
  return {at::full({}, scale, at::kFloat), at::zeros({}, at::kInt),
          at::full({}, hysteresis, at::kInt)};
}

// The scale after every step of a word: f a good step, i an overflow.
std::vector<float> scales_after(const std::string& word, double scale,
                                const GradScalerOptions& options) {
  ScaleTensors tensors = tensors_at(scale, options.hysteresis);
  std::vector<float> scales;
  for (const char symbol : word) {
    update_scale_(tensors, at::full({}, symbol == 'i' ? 1.0 : 0.0), options);
    scales.push_back(tensors.scale.item<float>());
  }
  return scales;
}

TEST(ScaleUpdate, TheScaleLiesWithTheFirstOutputsUnlessADeviceWasNamed) {
  const at::Device first(at::kCUDA, 0), second(at::kCUDA, 1);
  EXPECT_EQ(scale_device(at::kCUDA, second), second);
  EXPECT_EQ(scale_device(first, second), first);
  EXPECT_EQ(scale_device(at::kCUDA, at::kCPU), at::Device(at::kCUDA));
  EXPECT_EQ(scale_device(at::kCPU, second), at::Device(at::kCPU));
}

TEST(ScaleUpdate, PlainOpsEqualTheKernelBitForBitOnRandomSequences) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  for (int run = 0; run < 60; ++run) {
    // Factors that are no powers of two round; the largest scales meet the guard against infinity.
    GradScalerOptions options{.growth_factor = 1.0 + 3.0 * uniform(random) + 1e-3,
                              .backoff_factor = 0.05 + 0.9 * uniform(random),
                              .growth_interval = 1 + static_cast<int64_t>(4 * uniform(random)),
                              .min_scale = run % 3 == 0 ? 0x1p-126 : 1.0,
                              .max_scale = run % 4 == 0 ? 70000.0 : kMaxFloat};
    const double first = run % 5 == 0 ? 1e38 : 65536.0;
    ScaleTensors kernel = tensors_at(first), plain = tensors_at(first);
    for (int step = 0; step < 80; ++step) {
      const double draw = uniform(random);
      const double found = draw < 0.3 ? 1.0 : draw < 0.35 ? std::nan("") : 0.0;
      const at::Tensor found_inf = at::full({}, found, at::kFloat);
      update_scale_(kernel, found_inf, options);
      update_scale_plain_(plain, found_inf, options);
      ASSERT_TRUE(testing::is_bit_equal(plain.scale, kernel.scale)) << run << " at " << step;
      ASSERT_TRUE(testing::is_bit_equal(plain.growth_tracker, kernel.growth_tracker))
          << run << " at " << step;
    }
  }
}

TEST(ScaleUpdate, HysteresisPutsOffTheFirstBackoffAndIsRefilledByGrowthAlone) {
  const GradScalerOptions options{.growth_interval = 2, .hysteresis = 2};
  // The first overflow is forgiven; good steps in between do not refill; growth does.
  EXPECT_EQ(scales_after("ififiiffii", 64.0, options),
            (std::vector<float>{64, 64, 32, 32, 16, 8, 8, 16, 16, 8}));
}

TEST(ScaleUpdate, ConsecutiveHysteresisIsRefilledByEveryGoodStep) {
  const GradScalerOptions options{
      .growth_interval = 100, .hysteresis = 2, .consecutive_hysteresis = true};
  EXPECT_EQ(scales_after("ififiifi", 64.0, options),
            (std::vector<float>{64, 64, 64, 64, 64, 32, 32, 32}));
}

TEST(ScaleUpdate, AForgivenOverflowStillRestartsTheCountOfGoodSteps) {
  const GradScalerOptions options{.growth_interval = 2, .hysteresis = 2};
  EXPECT_EQ(scales_after("fifff", 64.0, options), (std::vector<float>{64, 64, 64, 128, 128}));
}

TEST(ScaleUpdate, StaysWithinItsBounds) {
  for (const int64_t hysteresis : {1, 2}) {
    const GradScalerOptions options{
        .growth_interval = 1, .min_scale = 24.0, .max_scale = 100.0, .hysteresis = hysteresis};
    EXPECT_EQ(scales_after("fff", 64.0, options), (std::vector<float>{100, 100, 100}));
    EXPECT_EQ(scales_after("iiii", 64.0, options).back(), 24.0f);
  }
}

TEST(ScaleUpdate, TellsAnOverflowThatWouldLowerAScaleAtItsFloor) {
  const GradScalerOptions options{.min_scale = 0.7};  // not an fp32 number
  const at::Tensor bad = at::ones({}), good = at::zeros({});
  EXPECT_TRUE(overflows_at_floor(tensors_at(0.7), bad, options).item<bool>());
  EXPECT_FALSE(overflows_at_floor(tensors_at(0.7), good, options).item<bool>());
  EXPECT_FALSE(overflows_at_floor(tensors_at(0.8), bad, options).item<bool>());
  const GradScalerOptions forgiving{.hysteresis = 3};
  EXPECT_FALSE(overflows_at_floor(tensors_at(1.0, 2), bad, forgiving).item<bool>());
  EXPECT_TRUE(overflows_at_floor(tensors_at(1.0, 1), bad, forgiving).item<bool>());
  EXPECT_TRUE(overflows_at_floor(tensors_at(1.0, 0), bad, forgiving).item<bool>());
}

}  // namespace
}  // namespace mezzo
