#include "mezzo/kernels/adamw/moment8.h"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

// Products and quotients in fp32 on the way there and back, each 2^-24 relative.
constexpr double kRounding = 8 * 0x1p-24;

std::vector<float> magnitudes() {
  std::vector<float> all{0.0f, 1.0f};
  for (float x = 1.0f; x > 1e-12f; x *= 0.993f) all.push_back(x);
  return all;
}

double there_and_back_first(float m, float scale, float u) {
  return decode_first(encode_first(m, encoding_factor(scale, 127), u), decoding_factor(scale, 127));
}

double there_and_back_second(float root, float scale, float u) {
  return decode_second(encode_second(root, encoding_factor(scale, 255), u),
                       decoding_factor(scale, 255));
}

/// The bound of the Note.
double error_bound(double x, double top) {
  const double n = std::floor(top * std::sqrt(x) * (1 + kRounding));
  return (2 * n + 1) / (top * top) + kRounding;
}

TEST(Moment8, ComesBackWithinTheGapBetweenItsNeighbours) {
  for (const float scale : {1.0f, 3e-30f, 7e-9f, 5e20f}) {
    for (const float x : magnitudes()) {
      for (const float u : {1e-5f, 0.3f, 0.5f, 0.99999f}) {
        const double here = static_cast<double>(x) * scale;
        for (const float sign : {-1.0f, 1.0f}) {
          const double m = there_and_back_first(static_cast<float>(sign * here), scale, u);
          ASSERT_LE(std::abs(m - sign * here), error_bound(x, 127) * scale) << x << " " << scale;
        }
        const double root = there_and_back_second(static_cast<float>(here), scale, u);
        ASSERT_LE(std::abs(root - here), error_bound(x, 255) * scale) << x << " " << scale;
      }
    }
  }
}

// The mean over U values of u, evenly spread, is off by less than one of their steps.
TEST(Moment8, IsRightOnAverage) {
  constexpr int kValues = 4096;
  for (const float x : magnitudes()) {
    double first = 0.0, second = 0.0;
    for (int i = 0; i < kValues; ++i) {
      const float u = (static_cast<float>(i) + 0.5f) / kValues;
      first += there_and_back_first(x, 1.0f, u) / kValues;
      second += there_and_back_second(x, 1.0f, u) / kValues;
    }
    ASSERT_LE(std::abs(first - x), error_bound(x, 127) / kValues + kRounding) << x;
    if (x * 255 * 255 >= 1.0f || x == 0.0f) {
      ASSERT_LE(std::abs(second - x), error_bound(x, 255) / kValues + kRounding) << x;
    }
  }
}

TEST(Moment8, ASecondMomentAboveZeroNeverBecomesZeroNorLessThanAQuarterInTheRoot) {
  for (const float x : magnitudes()) {
    for (const float u : {1e-5f, 0.5f, 0.99999f}) {
      const double root = there_and_back_second(x, 1.0f, u);
      if (x > 0.0f) {
        ASSERT_GE(root, x / 4 * (1 - kRounding)) << x;
      } else {
        ASSERT_EQ(root, 0.0);
      }
    }
  }
  const float least = std::sqrt(std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(encode_second(least, encoding_factor(1.0f, 255), 0.99f), 1);
}

TEST(Moment8, TheLargestOfABlockComesBackAsItIs) {
  for (const float scale : {1.0f, 0.1f, 3e-30f, 1e30f}) {
    EXPECT_NEAR(there_and_back_first(-scale, scale, 0.5f), -scale, kRounding * scale);
    EXPECT_NEAR(there_and_back_second(scale, scale, 0.5f), scale, kRounding * scale);
    EXPECT_EQ(encode_first(-scale, encoding_factor(scale, 127), 1e-5f), -127);
    EXPECT_EQ(encode_second(scale, encoding_factor(scale, 255), 1e-5f), 255);
  }
}

TEST(Moment8, ABlockOfZerosAndOneOfNextToNothingAreZeros) {
  for (const float scale : {0.0f, 1e-38f}) {
    EXPECT_EQ(there_and_back_first(scale, scale, 0.5f), 0.0);
    EXPECT_EQ(there_and_back_second(0.0f, scale, 0.5f), 0.0);
  }
}

TEST(Moment8, WhatIsNotFiniteStaysSo) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float scale : {kInf, std::numeric_limits<float>::quiet_NaN()}) {
    for (const float x : {0.0f, 1.0f, kInf, std::numeric_limits<float>::quiet_NaN()}) {
      EXPECT_FALSE(std::isfinite(there_and_back_first(x, scale, 0.5f))) << x << " " << scale;
      EXPECT_FALSE(std::isfinite(there_and_back_second(x, scale, 0.5f))) << x << " " << scale;
    }
  }
}

// Half of the bits are ones: over N bits within 5 standard deviations, sqrt(N) / 2 each.
TEST(Dice, AreFairAndDifferFromStepToStep) {
  constexpr uint32_t kPositions = 1 << 16;
  int64_t ones = 0, unchanged = 0;
  for (uint32_t i = 0; i < kPositions; ++i) {
    ones += std::popcount(random_bits(7, i));
    unchanged += std::popcount(~(random_bits(7, i) ^ random_bits(8, i)));
  }
  const double bits = 32.0 * kPositions;
  EXPECT_NEAR(static_cast<double>(ones), bits / 2, 2.5 * std::sqrt(bits));
  EXPECT_NEAR(static_cast<double>(unchanged), bits / 2, 2.5 * std::sqrt(bits));
}

}  // namespace
}  // namespace mezzo::kernels
