#include "mezzo/kernels/tensor_stats/tensor_stats.h"

#include <limits>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include "tests/devices.h"

namespace mezzo::kernels {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void expect_equal(const TensorStats& got, const TensorStats& expected) {
  EXPECT_EQ(got.numel, expected.numel);
  EXPECT_EQ(got.nan, expected.nan);
  EXPECT_EQ(got.positive_inf, expected.positive_inf);
  EXPECT_EQ(got.negative_inf, expected.negative_inf);
  EXPECT_EQ(got.zeros, expected.zeros);
  EXPECT_EQ(got.subnormals, expected.subnormals);
  EXPECT_EQ(got.largest, expected.largest);
}

class TensorStatsOf : public mezzo::testing::OnDevice<at::ScalarType> {};

TEST_P(TensorStatsOf, AreThoseOfThePlainCode) {
  for (const int64_t N : {1, 31, 4096, 100003}) {
    at::Tensor x = at::randn({N}).pow(9);  // some are subnormal in fp16
    x.index_put_({at::randint(N, {N / 7})}, at::tensor(0.0f));
    x.index_put_({at::randint(N, {N / 50})}, at::tensor(static_cast<float>(kNaN)));
    x.index_put_({at::randint(N, {N / 60})}, at::tensor(static_cast<float>(kInf)));
    x.index_put_({at::randint(N, {N / 70})}, at::tensor(static_cast<float>(-kInf)));
    x = x.to(GetParam());
    expect_equal(tensor_stats(there(x)), reference::tensor_stats(x));
  }
}

TEST_P(TensorStatsOf, CountEachKindOnce) {
  const double tiny = GetParam() == at::kDouble ? 1e-310 : GetParam() == at::kHalf ? 1e-6 : 1e-39;
  const at::Tensor x = at::tensor({0.0, -0.0, tiny, -3.0, kInf, kInf, -kInf, kNaN}, at::kDouble);
  const TensorStats stats = tensor_stats(there(x.to(GetParam())));
  EXPECT_EQ(stats.numel, 8);
  EXPECT_EQ(stats.zeros, 2);
  EXPECT_EQ(stats.subnormals, 1);
  EXPECT_EQ(stats.positive_inf, 2);
  EXPECT_EQ(stats.negative_inf, 1);
  EXPECT_EQ(stats.nan, 1);
  EXPECT_EQ(stats.non_finite(), 4);
  EXPECT_EQ(stats.largest, 3.0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, TensorStatsOf,
                         mezzo::testing::on_devices(::testing::Values(at::kDouble, at::kFloat,
                                                                      at::kHalf, at::kBFloat16)),
                         mezzo::testing::device_and([](const auto& param) {
                           return c10::toString(param.param);
                         }));

class TensorStatsOn : public mezzo::testing::OnDevice<> {};

TEST_P(TensorStatsOn, OfStridedSparseComplexAndIntegerTensors) {
  const at::Tensor x = there(at::tensor({1.0f, static_cast<float>(kNaN), 2.0f, 9.0f}).view({2, 2})),
                   integers = there(at::arange(5));
  EXPECT_EQ(tensor_stats(x.select(1, 1)).nan, 1);
  EXPECT_EQ(tensor_stats(x.select(1, 0)).nan, 0);
  EXPECT_EQ(tensor_stats(x.select(1, 0).unsqueeze(0).expand({3, 2})).numel, 6);
  EXPECT_EQ(tensor_stats(x.to_sparse()).nan, 1);
  EXPECT_EQ(tensor_stats(at::complex(x, x)).nan, 2);
  EXPECT_EQ(tensor_stats(integers).numel, 5);
  EXPECT_EQ(tensor_stats(integers).zeros, 0);
  EXPECT_EQ(tensor_stats(x.to(at::kFloat8_e5m2)).nan, 1);
}

INSTANTIATE_TEST_SUITE_P(Devices, TensorStatsOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(ContentHash, ChangesWithABitAndWithAPlace) {
  const at::Tensor x = at::randn({5000});
  at::Tensor other = x.clone();
  EXPECT_EQ(content_hash(x), content_hash(other));
  other[4999] = -other[4999];
  EXPECT_NE(content_hash(x), content_hash(other));
  EXPECT_NE(content_hash(x), content_hash(x.flip(0)));
  const at::Tensor nan = at::tensor(static_cast<float>(kNaN));
  EXPECT_NE(content_hash(at::cat({nan.view({1}), nan.view({1})})), content_hash(at::zeros({2})));
  EXPECT_NE(content_hash(at::tensor({5.0, 5.0, 1.0})), content_hash(at::tensor({7.0, 7.0, 1.0})));
  EXPECT_EQ(content_hash(x.view({50, 100}).t()), content_hash(x.view({50, 100}).t().contiguous()));
}

TEST(ContentHash, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = at::randn({1 << 20});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const uint64_t one = content_hash(x);
  at::set_num_threads(5);
  EXPECT_EQ(content_hash(x), one);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace mezzo::kernels
