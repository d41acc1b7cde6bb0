#include "mezzo/kernels/simd/simd.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <ATen/Context.h>

#include "mezzo/kernels/simd/exp2.h"
#include "mezzo/kernels/simd/numbers.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

template <class From, class To, To convert(From)>
MEZZO_INLINE void convert_all(const From* from, To* to, int64_t N) {
  for (int64_t i = 0; i < N; ++i) to[i] = convert(from[i]);
}

template <class T>
MEZZO_INLINE float widened(T x) {
  return wide(x);
}

template <class T>
MEZZO_INLINE T narrowed(float x) {
  return narrow<T>(x);
}

MEZZO_INLINE float exponential(float x) { return exp_of(x); }
MEZZO_INLINE float power_of_two(float x) { return exp2_of(x); }
MEZZO_INLINE float sigmoid_value(float z) { return sigmoid_of(z).value; }
MEZZO_INLINE float sigmoid_slope(float z) { return sigmoid_of(z).slope; }

/// The loop's result in every instruction set that this CPU has.
template <auto loop, class From, class To>
std::vector<std::vector<To>> in_each_set(const std::vector<From>& from) {
  std::vector<std::vector<To>> results;
  const auto run = [&](auto* compiled) {
    compiled(from.data(), results.emplace_back(from.size()).data(),
             static_cast<int64_t>(from.size()));
  };
  run(&detail::run_baseline<loop, const From*, To*, int64_t>);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    run(&detail::run_avx2<loop, const From*, To*, int64_t>);
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    run(&detail::run_avx512<loop, const From*, To*, int64_t>);
  return results;
}

bool is_same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

template <class T>
class HalfTypes : public ::testing::Test {};
using Halves = ::testing::Types<c10::BFloat16, c10::Half>;
TYPED_TEST_SUITE(HalfTypes, Halves);

TYPED_TEST(HalfTypes, WidenExactlyAsLibtorchForEveryValue) {
  std::vector<TypeParam> all;
  std::vector<float> expected;
  for (int bits = 0; bits < 65536; ++bits) {
    all.emplace_back(static_cast<uint16_t>(bits), TypeParam::from_bits());
    expected.push_back(static_cast<float>(all.back()));
  }
  for (const bool flushes : {false, true}) {
    at::globalContext().setFlushDenormal(flushes);
    const auto results =
        in_each_set<convert_all<TypeParam, float, widened<TypeParam>>, TypeParam, float>(all);
    at::globalContext().setFlushDenormal(false);
    for (const auto& got : results)
      for (size_t i = 0; i < all.size(); ++i)
        ASSERT_TRUE(is_same(got[i], expected[i])) << std::hex << i << " flushes " << flushes;
  }
}

// Every 16-bit value, the middle to its neighbour, and what lies next to these: where rounding
// turns.
TYPED_TEST(HalfTypes, NarrowExactlyAsLibtorchAtEveryTurningPoint) {
  std::vector<float> points;
  for (int bits = 0; bits < 65536; ++bits) {
    const float here =
        static_cast<float>(TypeParam(static_cast<uint16_t>(bits), TypeParam::from_bits()));
    const float next =
        static_cast<float>(TypeParam(static_cast<uint16_t>(bits + 1), TypeParam::from_bits()));
    const float middle = here / 2 + next / 2;
    for (const float x : {here, middle})
      for (const float to : {-INFINITY, INFINITY}) points.push_back(std::nextafter(x, to));
    points.insert(points.end(), {here, middle});
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1 << 20; ++i)
    points.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  for (const auto& got :
       in_each_set<convert_all<float, TypeParam, narrowed<TypeParam>>, float, TypeParam>(points)) {
    for (size_t i = 0; i < points.size(); ++i) {
      const TypeParam expected(points[i]);
      ASSERT_TRUE(is_same(static_cast<float>(got[i]), static_cast<float>(expected)))
          << points[i] << " " << std::hex << got[i].x << " " << expected.x;
    }
  }
}

/// From `begin` to `end`, in steps that are no multiple of anything.
std::vector<float> exponents(float begin, float end) {
  std::vector<float> points;
  for (float x = begin; x < end; x += 0.0007f) points.push_back(x);
  return points;
}

template <float function(float)>
void expect_within(double ulps, float begin, float end, double exact_of(double)) {
  const std::vector<float> points = exponents(begin, end);
  for (const auto& got : in_each_set<convert_all<float, float, function>, float, float>(points)) {
    for (size_t i = 0; i < points.size(); ++i) {
      const double exact = exact_of(static_cast<double>(points[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      ASSERT_LE(std::abs(got[i] - exact), ulps * ulp) << points[i];
    }
  }
}

TEST(ExpOf, IsWithinTwoUlpOfTheExactValue) {
  expect_within<exponential>(2, -87.0f, 88.0f, [](double x) { return std::exp(x); });
}

TEST(ExpOf, IsZeroBelowItsRangeAndKeepsNaN) {
  const std::vector<float> points = {-INFINITY, -1e30f, -87.1f, -104.0f, 0.0f, NAN};
  for (const auto& got :
       in_each_set<convert_all<float, float, exponential>, float, float>(points)) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(got[i], 0.0f) << points[i];
    EXPECT_EQ(got[4], 1.0f);
    EXPECT_TRUE(std::isnan(got[5]));
  }
}

TEST(Exp2Of, IsWithinTwoUlpOfTheExactValue) {
  expect_within<power_of_two>(2, -126.0f, 127.0f, [](double x) { return std::exp2(x); });
}

TEST(Exp2Of, IsZeroBelowItsRangeAndKeepsNaN) {
  const std::vector<float> points = {-INFINITY, -1e30f, -126.1f, -149.0f, 0.0f, NAN};
  for (const auto& got :
       in_each_set<convert_all<float, float, power_of_two>, float, float>(points)) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(got[i], 0.0f) << points[i];
    EXPECT_EQ(got[4], 1.0f);
    EXPECT_TRUE(std::isnan(got[5]));
  }
}

TEST(SigmoidOf, ValueAndSlopeAreWithinSixUlpOfTheExactOnes) {
  expect_within<sigmoid_value>(6, -87.0f, 87.0f, [](double z) { return 1 / (1 + std::exp(-z)); });
  expect_within<sigmoid_slope>(6, -87.0f, 87.0f, [](double z) {
    return 1 / (1 + std::exp(-z)) / (1 + std::exp(z));  // no cancellation
  });
}

TEST(SigmoidOf, ReachesItsEndsAndKeepsNaN) {
  const std::vector<float> points = {-INFINITY, -200.0f, 0.0f, 200.0f, INFINITY, NAN};
  const std::vector<float> values = {0.0f, 0.0f, 0.5f, 1.0f, 1.0f},
                           slopes = {0.0f, 0.0f, 0.25f, 0.0f, 0.0f};
  for (const auto& got :
       in_each_set<convert_all<float, float, sigmoid_value>, float, float>(points)) {
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(got[i], values[i]) << points[i];
    EXPECT_TRUE(std::isnan(got[5]));
  }
  for (const auto& got :
       in_each_set<convert_all<float, float, sigmoid_slope>, float, float>(points)) {
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(got[i], slopes[i]) << points[i];
    EXPECT_TRUE(std::isnan(got[5]));
  }
}

}  // namespace
}  // namespace mezzo::kernels
