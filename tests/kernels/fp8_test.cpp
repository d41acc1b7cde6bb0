// FP8 casts and their scales, of the CPU and of a GPU; and, in gpu_kernels_test, of its kernels
// compiled for the CPU (tests/emulated_gpu/).

#include <cmath>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/scaling.h"
#include "tests/close.h"
#include "tests/kernels/fp8_bound.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;
using mezzo::testing::magnitude_of;

#ifdef MEZZO_EMULATED_GPU
namespace tested = cuda;
#else
namespace tested = kernels;
#endif

constexpr at::ScalarType kE4M3 = at::kFloat8_e4m3fn, kE5M2 = at::kFloat8_e5m2;

const Random random(5);

at::Tensor exact(const at::Tensor& x) { return x.detach().cpu().to(at::kDouble); }

at::Tensor bytes(const at::Tensor& fp8) { return fp8.cpu().view(at::kByte); }

/// On the device that the parameter names.
class Fp8Test : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "cuda" && !(kHasCuda && at::hasCUDA()))
      GTEST_SKIP() << "no GPU here";
  }
  at::Tensor there(const at::Tensor& x) const { return x.to(at::Device(GetParam())); }
  at::Tensor scalar(double value) const { return there(at::full({}, value, at::kFloat)); }
  double scale_for(double amax, at::ScalarType dtype = kE4M3, int64_t margin = 0) const {
    return tested::fp8_scale(scalar(amax), dtype, margin).item<double>();
  }
  Fp8 cast(const at::Tensor& x, double scale, at::ScalarType dtype) const {
    return tested::fp8_cast(there(x), scalar(scale), {.dtype = dtype});
  }
};

TEST_P(Fp8Test, ScaleIsTheSmallestPowerOfTwoThatFitsAmax) {
  EXPECT_EQ(scale_for(448.0), 1.0);
  EXPECT_EQ(scale_for(std::nextafter(448.0f, 1000.0f)), 2.0);
  EXPECT_EQ(scale_for(std::nextafter(448.0f, 0.0f)), 1.0);
  EXPECT_EQ(scale_for(224.0), 0.5);
  EXPECT_EQ(scale_for(1.0), 0x1p-8);  // 256 is the largest power of two below 448
  EXPECT_EQ(scale_for(57344.0, kE5M2), 1.0);
  EXPECT_EQ(scale_for(1e-6, kE5M2), 0x1p-35);
  EXPECT_EQ(scale_for(448.0, kE4M3, 3), 8.0);
}

TEST_P(Fp8Test, ScaleHasAnInverseAtTheEndsOfFp32) {
  EXPECT_EQ(scale_for(0x1p-149), 0x1p-126);
  EXPECT_EQ(scale_for(0x1p127), 0x1p119);
  EXPECT_EQ(scale_for(0x1p127, kE4M3, 15), 0x1p126);
}

TEST_P(Fp8Test, ScaleIsOneWhereAmaxSaysNothing) {
  for (const double amax : {0.0, INFINITY * 1.0, NAN * 1.0}) EXPECT_EQ(scale_for(amax), 1.0);
}

TEST_P(Fp8Test, AmaxIsTheLargestMagnitudeAndShowsNaN) {
  EXPECT_EQ(fp8_amax(there(at::tensor({1.0f, -3.0f, 2.0f}))).item<double>(), 3.0);
  EXPECT_EQ(fp8_amax(there(at::tensor({1.0f, -3.0f}).to(at::kBFloat16))).scalar_type(), at::kFloat);
  EXPECT_TRUE(std::isnan(fp8_amax(there(at::tensor({1.0f, NAN, 5.0f}))).item<double>()));
  EXPECT_EQ(fp8_amax(there(at::empty({0, 4}))).item<double>(), 0.0);
}

TEST_P(Fp8Test, CastIsWithinHalfADigit) {
  // All binades of both formats and beyond their small ends, in both signs.
  const at::Tensor up = at::arange(-40.0, 9.0, 1.0 / 32).exp2();
  const at::Tensor numbers = at::cat({up, -up, at::zeros({64})}).view({-1, 32});
  for (const at::ScalarType dtype : {kE4M3, kE5M2})
    for (const at::ScalarType from : {at::kFloat, at::kBFloat16, at::kHalf})
      for (const double scale : {0x1p-12, 1.0, 4.0}) {
        const double largest = scale * fp8_format(dtype).max;
        const at::Tensor x = numbers.clamp(-largest, largest).to(from);
        const Fp8 got = cast(x, scale, dtype);
        EXPECT_EQ(got.values.scalar_type(), dtype);
        EXPECT_TRUE(is_within(fp8_wide(got).cpu(), exact(x), cast_bound(x, got.scale, dtype)));
      }
}

TEST_P(Fp8Test, CastRoundsTiesToEven) {
  // Between 16 and 32 e4m3 counts in twos, and below 2^-6 in steps of 2^-9.
  const at::Tensor x = at::tensor({17.0f, 19.0f, 21.0f, 0x1p-10f, 0x1.8p-9f, -17.0f}).view({1, 6});
  EXPECT_BIT_EQUAL(fp8_wide(cast(x, 1.0, kE4M3)).cpu(),
                   at::tensor({16.0f, 20.0f, 20.0f, 0.0f, 0x1p-8f, -16.0f}).view({1, 6}));
}

TEST_P(Fp8Test, FiniteNumbersSaturate) {
  const at::Tensor x = at::tensor({449.0f, 1e6f, -1e38f, 3.4e38f}).view({2, 2});
  EXPECT_BIT_EQUAL(fp8_wide(cast(x, 1.0, kE4M3)).cpu(),
                   at::tensor({448.0f, 448.0f, -448.0f, 448.0f}).view({2, 2}));
  // x / scale is beyond fp32 here.
  EXPECT_BIT_EQUAL(fp8_wide(cast(x, 0x1p-126, kE5M2)).cpu(),
                   at::tensor({1.0f, 1.0f, -1.0f, 1.0f}).view({2, 2}) * 0x1.cp-111);
}

TEST_P(Fp8Test, NaNAndInfComeThrough) {
  const at::Tensor x = at::tensor({NAN, INFINITY, -INFINITY, 1.0f}).view({2, 2});
  for (const at::ScalarType from : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor e4m3 = fp8_wide(cast(x.to(from), 1.0, kE4M3)).cpu().view(-1),
                     e5m2 = fp8_wide(cast(x.to(from), 1.0, kE5M2)).cpu().view(-1);
    EXPECT_TRUE(e4m3.narrow(0, 0, 3).isnan().all().item<bool>());
    EXPECT_TRUE(e5m2[0].isnan().item<bool>());
    EXPECT_BIT_EQUAL(e5m2.narrow(0, 1, 3), at::tensor({INFINITY, -INFINITY, 1.0f}));
    EXPECT_EQ(e4m3[3].item<double>(), 1.0);
  }
}

TEST_P(Fp8Test, TransposedHoldsTheSameNumbersAndAmaxTheLargest) {
  for (const auto& [rows, C] :
       {std::pair(16, 64), {64, 64}, {128, 192}, {80, 48}, {1, 1}, {67, 33}, {130, 16}, {16, 7}})
    for (const at::ScalarType from : {at::kFloat, at::kBFloat16, at::kHalf})
      for (const at::ScalarType dtype : {kE4M3, kE5M2}) {
        const at::Tensor x = random({rows, C}).to(from);
        const at::Tensor amax = scalar(0.0);
        const Fp8 got = tested::fp8_cast(there(x), scalar(0x1p-6), {dtype, true, amax});
        EXPECT_BIT_EQUAL(bytes(got.transposed), bytes(got.values).t().contiguous());
        EXPECT_BIT_EQUAL(bytes(got.values), bytes(cast(x, 0x1p-6, dtype).values));
        EXPECT_EQ(amax.item<double>(), magnitude_of(x));
      }
}

TEST_P(Fp8Test, DeviceAgreesWithTheReferenceBitForBit) {
  const at::Tensor x = random({67, 130}) * at::arange(-12, 1).exp2().repeat({10});
  for (const at::ScalarType dtype : {kE4M3, kE5M2}) {
    const Fp8 want = reference::fp8_cast(x, at::full({}, 0x1p-9), {.dtype = dtype});
    EXPECT_BIT_EQUAL(bytes(cast(x, 0x1p-9, dtype).values), bytes(want.values));
  }
}

TEST_P(Fp8Test, AmaxIsRaisedAndNeverLowered) {
  const at::Tensor amax = scalar(2.0), x = there(at::tensor({1.0f, -1.5f}).view({1, 2}));
  tested::fp8_cast(x, scalar(1.0), {.amax = amax});
  EXPECT_EQ(amax.item<double>(), 2.0);
  tested::fp8_cast(x * 4.0, scalar(1.0), {.amax = amax});
  EXPECT_EQ(amax.item<double>(), 6.0);
  tested::fp8_cast(x * NAN, scalar(1.0), {.amax = amax});
  EXPECT_TRUE(std::isnan(amax.item<double>()));
}

TEST_P(Fp8Test, CastTakesStridedAndEmptyTensors) {
  const at::Tensor x = random({48, 32});
  EXPECT_BIT_EQUAL(bytes(cast(x.t(), 1.0, kE4M3).values),
                   bytes(cast(x.t().contiguous(), 1.0, kE4M3).values));
  const Fp8 none = tested::fp8_cast(there(at::empty({0, 5})), scalar(1.0), {.transposes = true});
  EXPECT_EQ(none.values.sizes(), at::IntArrayRef({0, 5}));
  EXPECT_EQ(none.transposed.sizes(), at::IntArrayRef({5, 0}));
}

TEST_P(Fp8Test, HistoryForgetsWhatIsOlderThanItself) {
  AmaxHistory history = amax_history(3, at::Device(GetParam()));
  const auto next = [&](double amax) {
    history.latest.fill_(amax);
    return tested::next_fp8_scale(history, kE4M3).item<double>();
  };
  EXPECT_EQ(next(448.0), 1.0);
  EXPECT_EQ(next(44800.0), 128.0);
  EXPECT_BIT_EQUAL(history.amaxes.cpu(), at::tensor({44800.0f, 448.0f, 0.0f}));
  EXPECT_EQ(history.latest.item<double>(), 0.0);
  EXPECT_EQ(next(1.0), 128.0);
  EXPECT_EQ(next(1.0), 128.0);
  EXPECT_EQ(next(1.0), 0x1p-8);
}

TEST_P(Fp8Test, HistoryPassesOverWhatIsNotFinite) {
  AmaxHistory history = amax_history(2, at::Device(GetParam()));
  history.latest.fill_(448.0);
  EXPECT_EQ(tested::next_fp8_scale(history, kE4M3).item<double>(), 1.0);
  for (const float bad : {INFINITY, NAN}) {
    history.latest.fill_(bad);
    EXPECT_EQ(tested::next_fp8_scale(history, kE4M3).item<double>(), 1.0);
    EXPECT_BIT_EQUAL(history.amaxes.cpu(), at::tensor({448.0f, 0.0f}));
    EXPECT_EQ(history.latest.item<double>(), 0.0);
  }
}

TEST_P(Fp8Test, LongestHistoryMovesAsAWhole) {
  AmaxHistory history = amax_history(1024, at::Device(GetParam()));
  history.amaxes.copy_(at::arange(1, 1025).to(at::kFloat));
  history.latest.fill_(7.0);
  EXPECT_EQ(tested::next_fp8_scale(history, kE4M3).item<double>(), 4.0);  // 1023 / 448
  EXPECT_BIT_EQUAL(history.amaxes.cpu(), at::cat({at::tensor({7.0f}), at::arange(1.0f, 1024.0f)}));
}

#ifdef MEZZO_EMULATED_GPU
const auto kDevices = ::testing::Values("cpu");
#else
const auto kDevices = ::testing::Values("cpu", "cuda");
#endif
const auto kNameOfDevice = [](const auto& param) { return std::string(param.param); };
INSTANTIATE_TEST_SUITE_P(On, Fp8Test, kDevices, kNameOfDevice);

TEST(Fp8, RefusesBadArguments) {
  const at::Tensor x = at::zeros({2, 2}), one = at::ones({});
  EXPECT_THROW_WITH(fp8_format(at::kHalf), "but is Half");
  EXPECT_THROW_WITH(fp8_scale(one, kE4M3, -1), "but is -1");
  EXPECT_THROW_WITH(amax_history(0, at::kCPU), "but is of 0");
  EXPECT_THROW_WITH(fp8_cast(at::zeros({2}), one, {}), "but has 1 dimensions");
  EXPECT_THROW_WITH(fp8_cast(x.to(at::kDouble), one, {}), "but is Double");
  EXPECT_THROW_WITH(fp8_cast(x, at::ones({2}), {}), "scale must be one fp32 number");
  EXPECT_THROW_WITH(fp8_cast(x, one, {.dtype = at::kByte}), "but is Byte");
  EXPECT_THROW_WITH(fp8_cast(x, one, {.amax = one.to(at::kDouble)}),
                    "amax must be one fp32 number");
}

}  // namespace
}  // namespace mezzo::kernels
