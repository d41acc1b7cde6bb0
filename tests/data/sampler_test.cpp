#include "mezzo/data/sampler.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "mezzo/base/check.h"
#include "mezzo/data/random.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> take(Sampler& sampler, int64_t count) {
  std::vector<int64_t> offsets;
  while (count-- > 0) offsets.push_back(sampler.next());
  return offsets;
}

TEST(Permuted, MapsEveryIndexToAnotherOfTheSameRange) {
  for (const uint64_t size : {1u, 2u, 3u, 15u, 16u, 17u, 1000u, 4097u}) {
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t image = permuted(i, size, 99);
      ASSERT_LT(image, size);
      ASSERT_FALSE(seen[image]) << size;
      seen[image] = true;
    }
  }
}

// Were the order not uniform, some offset would lie outside of 6 standard deviations.
TEST(Permuted, PutsEveryIndexAtEveryPlaceEquallyOften) {
  constexpr int kSize = 20;
  constexpr int kKeys = 20000;
  std::vector<int> counts(kSize * kSize);
  for (uint64_t key = 0; key < kKeys; ++key) {
    for (uint64_t i = 0; i < kSize; ++i) ++counts[i * kSize + permuted(i, kSize, mix64(key))];
  }
  const double mean = static_cast<double>(kKeys) / kSize;
  const double deviation = std::sqrt(mean * (1 - 1.0 / kSize));
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  EXPECT_GT(*least, mean - 6 * deviation);
  EXPECT_LT(*most, mean + 6 * deviation);
}

TEST(Sampler, TakesEveryWindowOnceAnEpochAndStaysInside) {
  for (const int64_t tokens : {9, 10, 16, 17, 1000, 1001, 4096}) {
    constexpr int64_t kContext = 8;
    Sampler sampler(tokens, kContext, 7);
    for (int64_t epoch = 0; epoch < 20; ++epoch) {
      const int64_t first = sampler.next();
      ASSERT_EQ(sampler.state().epoch, epoch);
      auto offsets = take(sampler, sampler.windows_in_epoch() - 1);
      offsets.push_back(first);
      std::sort(offsets.begin(), offsets.end());
      // All of the one phase, side by side, as many as there is room for.
      ASSERT_GE(offsets.front(), 0);
      ASSERT_LT(offsets.front(), kContext);
      for (size_t i = 1; i < offsets.size(); ++i) ASSERT_EQ(offsets[i], offsets[i - 1] + kContext);
      ASSERT_LE(offsets.back() + kContext + 1, tokens);
      ASSERT_GT(offsets.back() + 2 * kContext + 1, tokens);
    }
  }
}

TEST(Sampler, PhaseAndOrderDifferFromEpochToEpoch) {
  Sampler sampler(100'000, 64, 1);
  std::set<int64_t> phases;
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 50; ++epoch) {
    const int64_t first = sampler.next();
    phases.insert(first % 64);
    orders.insert(take(sampler, sampler.windows_in_epoch() - 1));
  }
  EXPECT_GT(phases.size(), 25u);
  EXPECT_EQ(orders.size(), 50u);
}

TEST(Sampler, SeedsGiveDifferentOrders) {
  Sampler a(10'000, 8, 1);
  Sampler b(10'000, 8, 2);
  EXPECT_NE(take(a, 100), take(b, 100));
}

TEST(Sampler, TheOrderIsFixedForAllTime) {
  Sampler sampler(1000, 16, 1234);
  EXPECT_THAT(take(sampler, 8), ElementsAre(605, 333, 253, 621, 957, 909, 733, 541));
}

TEST(Sampler, GoesOnExactlyFromAnyState) {
  Sampler whole(500, 8, 3);
  const auto expected = take(whole, 400);  // six epochs and a half
  for (size_t cut = 0; cut <= 200; ++cut) {
    Sampler before(500, 8, 3);
    take(before, static_cast<int64_t>(cut));
    Sampler after(500, 8, 999);
    after.restore(before.state());
    ASSERT_EQ(take(after, 100),
              std::vector<int64_t>(expected.begin() + static_cast<ptrdiff_t>(cut),
                                   expected.begin() + static_cast<ptrdiff_t>(cut) + 100));
    ASSERT_EQ(after.state().seed, 3u);
  }
}

TEST(Sampler, TheSequenceDoesNotDependOnTheBatchSize) {
  Sampler whole(500, 8, 3);
  const auto expected = take(whole, 210);
  for (const int64_t batch : {2, 3, 7, 70}) {
    Sampler sampler(500, 8, 3);
    std::vector<int64_t> offsets;
    while (offsets.size() < 210) {
      const auto part = take(sampler, batch);
      offsets.insert(offsets.end(), part.begin(), part.end());
    }
    EXPECT_EQ(offsets, expected);
  }
}

TEST(Sampler, StatesThatCannotBeAreRefused) {
  Sampler sampler(500, 8, 3);
  EXPECT_THROW_WITH(sampler.restore({3, 0, 1000}), "position must be from 0 to");
  EXPECT_THROW_WITH(sampler.restore({3, 0, -1}), "but is -1");
  EXPECT_THROW_WITH(sampler.restore({3, -1, 0}), "epoch must not be negative");
}

TEST(Sampler, TooFewTokensForAWindowIsAnErrorWithTheSizes) {
  EXPECT_THROW_WITH(Sampler(8, 8, 1),
                    "must hold a window of context + 1 tokens, with context 8, but holds 8");
  EXPECT_THROW_WITH(Sampler(8, 0, 1), "context must be at least 1 token, but is 0");
  EXPECT_EQ(Sampler(9, 8, 1).windows_in_epoch(), 1);
  EXPECT_THROW_WITH(Sampler(9, INT64_MAX, 1), "must hold a window");
}

TEST(HeldOutWindows, AreFixedAndEvenlySpaced) {
  EXPECT_THAT(held_out_windows(101, 10, 5), ElementsAre(0, 20, 40, 60, 80));
  EXPECT_THAT(held_out_windows(101, 10, 3), ElementsAre(0, 30, 60));
}

TEST(HeldOutWindows, AreAllThereAreIfMoreAreAskedFor) {
  EXPECT_THAT(held_out_windows(31, 10, 99), ElementsAre(0, 10, 20));
  EXPECT_THAT(held_out_windows(30, 10, 99), ElementsAre(0, 10));
  EXPECT_THROW_WITH(held_out_windows(10, 10, 1), "the held-out split must hold a window");
  EXPECT_THROW_WITH(held_out_windows(30, 10, 0), "at least 1 held-out window");
}

}  // namespace
}  // namespace mezzo::data
