#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

at::Tensor some(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape, at::detail::createCPUGenerator(1), at::dtype(at::kFloat)).to(dtype);
}

/// The contract's.
at::Tensor bound(const at::Tensor& x) {
  const auto rows = static_cast<double>(x.numel() / x.size(-1));
  return (25 + rows / 256) * 0x1p-24 * reference::sum_of_rows(x.to(at::kDouble).abs());
}

class SumOfRowsOf : public mezzo::testing::OnDevice<at::ScalarType> {};

class SumOfRowsOnCpu : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(SumOfRowsOf, IsWithinItsBound) {
  for (const int64_t N : {1, 3, 31, 64, 65, 257, 4099, 16385})
    for (const int64_t C : {1, 31, 33, 257, 2049}) {
      if (N * C > (1 << 21)) continue;
      const at::Tensor x = some({N, C}, GetParam()), sum = here(sum_of_rows(there(x)));
      EXPECT_EQ(sum.scalar_type(), at::kFloat);
      EXPECT_TRUE(
          mezzo::testing::is_within(sum, reference::sum_of_rows(x.to(at::kDouble)), bound(x)))
          << N << " x " << C;
    }
}

TEST_P(SumOfRowsOnCpu, HasTheSameBitsForAnyNumberOfThreads) {
  const at::Tensor x = some({1025, 2049}, GetParam());
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor expected = sum_of_rows(x);
  for (const int n : {2, 5}) {
    at::set_num_threads(n);
    EXPECT_BIT_EQUAL(sum_of_rows(x), expected) << n;
  }
  at::set_num_threads(threads);
}

TEST_P(SumOfRowsOf, TakesStridedTensorsOfAnyRank) {
  const at::Tensor x = some({33, 5, 31}, GetParam());
  EXPECT_TRUE(mezzo::testing::is_within(
      here(sum_of_rows(there(x).permute({2, 1, 0}))),
      reference::sum_of_rows(x.to(at::kDouble).permute({2, 1, 0})), bound(x.permute({2, 1, 0}))));
}

TEST_P(SumOfRowsOnCpu, HasTheSameBitsForAnyStrides) {
  const at::Tensor x = some({33, 5, 31}, GetParam()).permute({2, 1, 0});
  EXPECT_BIT_EQUAL(sum_of_rows(x), sum_of_rows(x.contiguous()));
}

TEST_P(SumOfRowsOf, KeepsNaNToItsColumn) {
  at::Tensor x = some({70, 3}, GetParam());
  x[69][1] = NAN;
  const at::Tensor is_nan = sum_of_rows(there(x)).isnan();
  EXPECT_TRUE(is_nan[1].item<bool>());
  EXPECT_EQ(is_nan.sum().item<int64_t>(), 1);
}

const auto kDtypes = ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf);

const char* name_of(const ::testing::TestParamInfo<at::ScalarType>& param) {
  return c10::toString(param.param);
}

INSTANTIATE_TEST_SUITE_P(Types, SumOfRowsOf, mezzo::testing::on_devices(kDtypes),
                         mezzo::testing::device_and(name_of));
INSTANTIATE_TEST_SUITE_P(Types, SumOfRowsOnCpu, kDtypes, name_of);

class SumOfRowsOn : public mezzo::testing::OnDevice<> {};

TEST_P(SumOfRowsOn, OfNoneIsZeroAndOfFp64IsFp64) {
  EXPECT_BIT_EQUAL(here(sum_of_rows(there(at::zeros({0, 3}, at::kBFloat16)))), at::zeros({3}));
  EXPECT_BIT_EQUAL(here(sum_of_rows(there(at::zeros({4, 0})))), at::zeros({0}));
  EXPECT_BIT_EQUAL(sum_of_rows(at::zeros({2, 0, 3}, at::kDouble)), at::zeros({3}, at::kDouble));
  EXPECT_EQ(sum_of_rows(there(at::ones({2, 3}, at::kDouble))).scalar_type(), at::kDouble);
}

// What the bound is worth: one row left out, of those that are the rest of four, breaks it.
TEST_P(SumOfRowsOn, ALostRowIsOutsideTheBound) {
  const at::Tensor x = some({67, 5}, at::kFloat);
  EXPECT_FALSE(mezzo::testing::is_within(here(sum_of_rows(there(x.slice(0, 0, 66)))),
                                         reference::sum_of_rows(x.to(at::kDouble)), bound(x)));
}

INSTANTIATE_TEST_SUITE_P(Devices, SumOfRowsOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

}  // namespace
}  // namespace mezzo::kernels
