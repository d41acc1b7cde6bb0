#include "mezzo/base/float_format.h"

#include <limits>

#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include "tests/testing.h"

namespace mezzo {
namespace {

template <class T>
void expect_limits_of(const FloatFormat& format) {
  using Limits = std::numeric_limits<T>;
  EXPECT_EQ(format.epsilon, static_cast<double>(Limits::epsilon()));
  EXPECT_EQ(format.max, static_cast<double>(Limits::max()));
  EXPECT_EQ(format.smallest_normal, static_cast<double>(Limits::min()));
  EXPECT_EQ(format.smallest_subnormal, static_cast<double>(Limits::denorm_min()));
}

TEST(FloatFormat, AgreesWithTheTypesOwnLimits) {
  expect_limits_of<double>(float_format(at::kDouble));
  expect_limits_of<float>(float_format(at::kFloat));
  expect_limits_of<c10::Half>(float_format(at::kHalf));
  expect_limits_of<c10::BFloat16>(float_format(at::kBFloat16));
  expect_limits_of<c10::Float8_e4m3fn>(kFp8E4M3);
  expect_limits_of<c10::Float8_e5m2>(kFp8E5M2);
}

TEST(FloatFormat, RefusesAnInteger) {
  EXPECT_THROW_WITH(float_format(at::kLong), "dtype must be fp64, fp32, fp16 or bf16, but is Long");
}

TEST(ToleranceFor, IsTheCertainBoundForShortChainsAndTheRootForLongOnes) {
  EXPECT_DOUBLE_EQ(tolerance_for(at::kDouble, 10, 3.0), 10 * 3.0 * 0x1p-53);
  EXPECT_DOUBLE_EQ(tolerance_for(at::kDouble, 64, 1.0), 64 * 0x1p-53);
  EXPECT_DOUBLE_EQ(tolerance_for(at::kDouble, 6400, 1.0), 640 * 0x1p-53);
}

TEST(ToleranceFor, LeavesRoomForSubnormalsAtZeroMagnitude) {
  EXPECT_EQ(tolerance_for(at::kHalf, 2, 0.0), 0x1p-24);
}

TEST(ToleranceFor, HoldsForASumInFp16) {
  float exact = 0;
  c10::Half sum = 0;
  for (int i = 0; i < 64; ++i) {
    const c10::Half term = static_cast<float>(i % 7) * 0.1F;
    exact += static_cast<float>(term);  // fp32 holds the sum of these exactly
    sum = sum + term;
  }
  const double error = std::abs(static_cast<double>(sum) - static_cast<double>(exact));
  EXPECT_GT(error, 0.0);
  EXPECT_LE(error, tolerance_for(at::kHalf, 64, exact));
}

TEST(ToleranceFor, RefusesAnEmptyChainAndAMagnitudeThatIsNoNumber) {
  EXPECT_THROW_WITH(tolerance_for(at::kFloat, 0, 1.0), "length must be > 0, but is 0");
  EXPECT_THROW_WITH(tolerance_for(at::kFloat, 1, std::nan("")), "magnitude must be finite");
}

}  // namespace
}  // namespace mezzo
