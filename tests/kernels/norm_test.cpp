#include "mezzo/kernels/norm/norm.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/error.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

at::Tensor some(at::IntArrayRef shape, int64_t seed, at::ScalarType dtype = at::kFloat) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::dtype(at::kFloat)).to(dtype);
}

std::vector<at::Tensor> mixed(at::Device device = at::kCPU) {
  return {some({257, 33}, 1).to(device),
          some({1}, 2, at::kHalf).to(device),
          some({0, 3}, 3).to(device),
          some({4097}, 4, at::kBFloat16).to(device),
          some({31, 129}, 5, at::kHalf).to(device).t(),
          some({64, 64}, 6).to(device).slice(1, 3, 34),
          some({100'000}, 7).to(device)};
}

/// The contract's; the reference's own sums are as good.
double tolerance(double norm, int64_t N) {
  return 2 * (200 + static_cast<double>(N) / 4096) * 0x1p-53 * norm;
}

class L2NormOn : public mezzo::testing::OnDevice<> {};

TEST_P(L2NormOn, IsThatOfAllTensorsTogether) {
  const double expected = reference::l2_norm(mixed());
  EXPECT_NEAR(l2_norm(mixed(device)), expected, tolerance(expected, 130'000));
  EXPECT_EQ(l2_norm({there(at::full({1}, 3.0, at::kBFloat16)), there(at::full({1}, 4.0))}), 5.0);
}

TEST(L2Norm, HasTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double expected = l2_norm(mixed());
  for (const int n : {2, 5}) {
    at::set_num_threads(n);
    EXPECT_EQ(l2_norm(mixed()), expected) << n;
  }
  at::set_num_threads(threads);
}

TEST_P(L2NormOn, NeitherOverflowsNorUnderflows) {
  const double large = 100.0 * 1e30F;  // of 10'000 squares, summed in fp64
  EXPECT_NEAR(l2_norm({there(at::full({10'000}, 1e30F))}), large, large * 10'000 * 0x1p-53);
  EXPECT_DOUBLE_EQ(l2_norm({there(at::full({10'000}, 65504.0, at::kHalf))}), 6550400.0);
  EXPECT_NEAR(l2_norm({there(at::full({10'000}, 0x1p-24, at::kHalf))}), 0x1p-24 * 100, 0x1p-60);
  EXPECT_NEAR(l2_norm({there(at::full({10'000}, 0x1p-149))}), 0x1p-149 * 100, 0x1p-190);
}

TEST_P(L2NormOn, IsNotFiniteWhereverAnElementIsNot) {
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const double bad : {static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
      for (const int64_t place : {0, 4095, 4096, 4999}) {
        auto tensor = some({5000}, 1, dtype);
        tensor[place] = bad;
        EXPECT_FALSE(std::isfinite(l2_norm({there(some({33}, 2)), there(tensor)}))) << place;
      }
    }
  }
}

TEST_P(L2NormOn, OfNothingIsZero) {
  EXPECT_EQ(l2_norm({}), 0.0);
  EXPECT_EQ(l2_norm({there(at::zeros({0}))}), 0.0);
}

INSTANTIATE_TEST_SUITE_P(Devices, L2NormOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(L2Norm, RefusesAnotherDtype) {
  EXPECT_THROW_WITH(l2_norm({at::ones({2}, at::kInt)}), "must be fp32, bf16 or fp16, but is Int");
}

}  // namespace
}  // namespace mezzo::kernels
