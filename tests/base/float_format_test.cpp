#include "mezzo/base/float_format.h"

#include <limits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "tests/testing.h"

namespace mezzo {
namespace {

template <class T>
void expect_limits_of(at::ScalarType dtype) {
  using Limits = std::numeric_limits<T>;
  const FloatFormat& format = float_format(dtype);
  EXPECT_EQ(format.epsilon, static_cast<double>(Limits::epsilon()));
  EXPECT_EQ(format.max, static_cast<double>(Limits::max()));
  EXPECT_EQ(format.smallest_normal, static_cast<double>(Limits::min()));
  EXPECT_EQ(format.smallest_subnormal, static_cast<double>(Limits::denorm_min()));
}

TEST(FloatFormat, AgreesWithTheTypesOwnLimits) {
  expect_limits_of<double>(at::kDouble);
  expect_limits_of<float>(at::kFloat);
  expect_limits_of<c10::Half>(at::kHalf);
  expect_limits_of<c10::BFloat16>(at::kBFloat16);
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
