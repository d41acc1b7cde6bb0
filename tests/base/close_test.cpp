#include "tests/close.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "tests/testing.h"

namespace mezzo::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

at::Tensor values(std::vector<double> v) { return at::tensor(v, at::kDouble); }

TEST(Close, AcceptsADifferenceOfExactlyTheTolerance) {
  EXPECT_TRUE(is_close(values({1.0, 2.25}), values({1.0, 2.0}), 0.25));
}

TEST(Close, RejectsAValueJustOutside) {
  const double outside = std::nextafter(2.25, 3.0);
  EXPECT_FALSE(is_close(values({1.0, outside}), values({1.0, 2.0}), 0.25));
}

TEST(Close, RejectsNaNOnEitherSideAndOnBoth) {
  EXPECT_FALSE(is_close(values({kNaN}), values({1.0}), 1e300));
  EXPECT_FALSE(is_close(values({1.0}), values({kNaN}), 1e300));
  EXPECT_FALSE(is_close(values({kNaN}), values({kNaN}), 1e300));
}

TEST(Close, RejectsANaNTolerance) { EXPECT_FALSE(is_close(values({1.0}), values({1.0}), kNaN)); }

TEST(Close, AcceptsAnInfinityOnlyAgainstItself) {
  EXPECT_TRUE(is_close(values({kInf, -kInf}), values({kInf, -kInf}), 0.0));
  EXPECT_FALSE(is_close(values({kInf}), values({-kInf}), 1e300));
  EXPECT_FALSE(is_close(values({kInf}), values({1.0}), 1e300));
}

TEST(Close, RejectsAnotherShapeOfEqualValues) {
  const auto result = is_close(at::ones({2, 3}), at::ones({3, 2}), 1.0);
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), ::testing::HasSubstr("Float [2, 3], expected Float [3, 2]"));
}

TEST(Close, RejectsAnUndefinedTensor) { EXPECT_FALSE(is_close({}, at::ones({2}), 1.0)); }

TEST(Close, NamesTheWorstIndex) {
  auto actual = at::zeros({2, 3, 4});
  actual[0][2][1] = 0.5;
  actual[1][0][3] = -7.0;
  const auto result = is_close(actual, at::zeros({2, 3, 4}), 0.125);
  EXPECT_THAT(result.message(), ::testing::HasSubstr("2 of 24"));
  EXPECT_THAT(result.message(), ::testing::HasSubstr("worst at [1, 0, 3]: actual -7, expected 0"));
  EXPECT_THAT(result.message(), ::testing::HasSubstr("tolerance 0.125"));
}

TEST(Close, NamesANaNAsTheWorst) {
  const auto result = is_close(values({9.0, kNaN, 8.0}), values({0.0, 0.0, 0.0}), 0.5);
  EXPECT_THAT(result.message(), ::testing::HasSubstr("worst at [1]"));
}

TEST(Close, ReadsStridedTensorsInLogicalOrder) {
  const auto square = at::arange(6, at::kDouble).view({2, 3});
  EXPECT_TRUE(is_close(square.t(), square.t().contiguous(), 0.0));
}

TEST(BitEqual, TellsZerosApartAndNaNsTogether) {
  EXPECT_TRUE(is_bit_equal(values({kNaN}), values({kNaN})));
  EXPECT_FALSE(is_bit_equal(values({0.0}), values({-0.0})));
  EXPECT_FALSE(is_bit_equal(at::ones({1}, at::kHalf), at::ones({1}, at::kFloat)));
}

}  // namespace
}  // namespace mezzo::testing
