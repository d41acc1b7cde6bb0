#include "mezzo/kernels/exponent_counts/exponent_counts.h"

#include <limits>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

namespace mezzo::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void expect_equal(const ExponentCounts& got, const ExponentCounts& expected) {
  EXPECT_EQ(got.by_exponent, expected.by_exponent);
  EXPECT_EQ(got.zeros, expected.zeros);
  EXPECT_EQ(got.largest, expected.largest);
  // Sums in fp64 in another order: 2^-53 a term, and 1e6 terms.
  EXPECT_NEAR(got.sum_squares, expected.sum_squares, 1e-9 * expected.sum_squares);
}

class ExponentCountsOf : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(ExponentCountsOf, AreThoseOfThePlainCode) {
  for (const int64_t N : {1, 31, 4096, 300007}) {
    at::Tensor x = at::randn({N}).pow(9);  // some are subnormal in fp16
    x.index_put_({at::randint(N, {N / 7})}, at::tensor(0.0f));
    x.index_put_({at::randint(N, {N / 9})}, at::tensor(-0.0f));
    x.index_put_({at::randint(N, {N / 30})}, at::tensor(1e-41f));
    x.index_put_({at::randint(N, {N / 50})}, at::tensor(kNaN));
    x.index_put_({at::randint(N, {N / 60})}, at::tensor(kInf));
    x.index_put_({at::randint(N, {N / 70})}, at::tensor(-kInf));
    x = x.to(GetParam());
    expect_equal(exponent_counts(x), reference::exponent_counts(x));
  }
}

TEST_P(ExponentCountsOf, AreTheSameForAnyLayoutAndNumberOfThreads) {
  const at::Tensor x = at::randn({200, 1000}).to(GetParam());
  const int threads = at::get_num_threads();
  const ExponentCounts expected = reference::exponent_counts(x);
  for (const int count : {1, 2, 5}) {
    at::set_num_threads(count);
    expect_equal(exponent_counts(x), expected);
    expect_equal(exponent_counts(x.t()), expected);
  }
  at::set_num_threads(threads);
  expect_equal(exponent_counts(x.slice(1, 0, 1000, 3)),
               reference::exponent_counts(x.slice(1, 0, 1000, 3)));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ExponentCountsOf,
                         ::testing::Values(at::kDouble, at::kFloat, at::kHalf, at::kBFloat16));

TEST(ExponentCounts, OfNothingAreNone) {
  const ExponentCounts counts = exponent_counts(at::zeros({0}));
  EXPECT_EQ(counts.zeros, 0);
  EXPECT_EQ(counts.largest, 0.0);
}

TEST(ExponentCounts, TellWhatALargestNumberAndItsSquaresAre) {
  const ExponentCounts counts = exponent_counts(at::tensor({3.0f, -4.0f, kInf, 0.0f}));
  EXPECT_EQ(counts.largest, 4.0);
  EXPECT_EQ(counts.sum_squares, 25.0);
  EXPECT_EQ(counts.by_exponent[128], 1);  // 3
  EXPECT_EQ(counts.by_exponent[129], 1);  // 4
  EXPECT_EQ(counts.by_exponent[255], 1);
  EXPECT_EQ(counts.by_exponent[0], 1);
}

}  // namespace
}  // namespace mezzo::kernels
