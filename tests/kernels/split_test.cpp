#include "mezzo/kernels/adamw/split.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>

#include "mezzo/base/error.h"
#include "mezzo/base/memory.h"
#include "mezzo/kernels/adamw/split_weights.h"
#include "mezzo/kernels/simd/numbers.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// How many of the 2^16 numbers with this upper half come back with other bits.
MEZZO_INLINE int64_t count_changed(uint32_t upper) {
  int64_t changed = 0;
#pragma omp simd reduction(+ : changed)
  for (int32_t lower = 0; lower < 65536; ++lower) {
    const uint32_t bits = upper << 16 | static_cast<uint32_t>(lower);
    const SplitFloat halves = split(std::bit_cast<float>(bits));
    changed += std::bit_cast<uint32_t>(join(halves.high, halves.remainder)) != bits;
  }
  return changed;
}

TEST(Split, JoinsToTheSameBitsForEveryNumberThatIsNotNan) {
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    const bool is_nan_or_inf = (upper & 0x7f80u) == 0x7f80u;
    if (!is_nan_or_inf) {
      ASSERT_EQ(simd<count_changed>(upper), 0) << std::hex << upper;
    }
  }
  for (const float w : {kInf, -kInf}) {
    EXPECT_EQ(join(split(w).high, split(w).remainder), w);
    EXPECT_EQ(split(w).remainder, 0);
  }
}

TEST(Split, HighIsTheCastToBf16AndTheMiddleGoesAwayFromZero) {
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    if ((upper & 0x7f80u) == 0x7f80u) continue;
    for (const uint32_t lower : {0x0u, 0x1u, 0x7fffu, 0x8001u, 0xffffu}) {
      const float w = std::bit_cast<float>(upper << 16 | lower);
      ASSERT_EQ(split(w).high.x, narrow<c10::BFloat16>(w).x) << std::hex << upper << lower;
    }
    const float middle = std::bit_cast<float>(upper << 16 | 0x8000u);
    ASSERT_EQ(split(middle).high.x, upper + 1) << std::hex << upper;
    ASSERT_EQ(split(middle).remainder, -32768) << std::hex << upper;
  }
}

TEST(Split, ARemainderIsNegativeWhereRoundingWentUp) {
  EXPECT_EQ(split(1.0f + 0x1p-23f).remainder, 1);
  EXPECT_EQ(split(1.0f - 0x1p-24f).remainder, -1);
  EXPECT_EQ(static_cast<float>(split(1.0f - 0x1p-24f).high), 1.0f);
}

TEST(Split, TheLargestNumbersReadAsInfAndAreKept) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(static_cast<float>(split(largest).high), kInf);
  EXPECT_EQ(join(split(largest).high, split(largest).remainder), largest);
  EXPECT_EQ(static_cast<float>(split(0x1.ffp+127f).high), kInf);
  EXPECT_EQ(static_cast<float>(split(0x1.fefffep+127f).high), 0x1.fep+127f);
}

TEST(Split, EveryNanStaysOneInBoth) {
  for (const uint32_t sign : {0u, 0x80000000u}) {
    for (const uint32_t bits : {0x7f800001u, 0x7f80ffffu, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu}) {
      const SplitFloat halves = split(std::bit_cast<float>(bits | sign));
      EXPECT_TRUE(std::isnan(static_cast<float>(halves.high))) << std::hex << bits;
      EXPECT_TRUE(std::isnan(join(halves.high, halves.remainder))) << std::hex << bits;
      EXPECT_EQ(std::signbit(static_cast<float>(halves.high)), sign != 0);
    }
  }
}

TEST(SplitWeight, IsTheSameForATensor) {
  std::vector<float> all;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (const uint32_t lower : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0xffffu}) {
      all.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  const auto w = at::tensor(all);
  const SplitWeight halves = split(w);
  const auto* high = halves.high.const_data_ptr<c10::BFloat16>();
  const auto* remainder = halves.remainder.const_data_ptr<int16_t>();
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(high[i].x, split(all[i]).high.x) << i;
    ASSERT_EQ(remainder[i], split(all[i]).remainder) << i;
  }
  const auto is_number = w.isnan().logical_not();
  EXPECT_BIT_EQUAL(join(halves.high, halves.remainder).masked_select(is_number),
                   w.masked_select(is_number));
}

TEST(SplitWeight, KeepsShapeAndOrderInMemory) {
  const auto w = at::randn({4, 0, 3}), transposed = at::randn({31, 7}).t();
  EXPECT_EQ(split(w).remainder.sizes(), w.sizes());
  const SplitWeight halves = split(transposed);
  EXPECT_EQ(halves.high.strides(), transposed.strides());
  EXPECT_EQ(halves.remainder.strides(), transposed.strides());
  EXPECT_BIT_EQUAL(join(halves.high, halves.remainder), transposed);
}

// A table of embeddings is the largest tensor of a model, and is split while all others are there.
TEST(SplitWeight, SplitsALargeTensorWithLittleMemoryBeside) {
  const at::Tensor w = at::randn({(int64_t{1} << 24) + 17});
  TensorMemoryMeter meter;
  const SplitWeight halves = split(w);
  EXPECT_LT(meter.peak_bytes() - meter.current_bytes(), static_cast<int64_t>(w.nbytes()) / 2);
  EXPECT_BIT_EQUAL(join(halves.high, halves.remainder), w);
}

TEST(SplitWeight, RefusesWhatIsNotFp32) {
  EXPECT_THROW_WITH(split(at::ones({2}, at::kHalf)), "a weight must be fp32, but is Half");
}

}  // namespace
}  // namespace mezzo::kernels
