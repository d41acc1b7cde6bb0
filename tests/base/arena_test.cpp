#include "mezzo/base/arena.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>

#include <fmt/format.h>
#include <unistd.h>

#include "mezzo/base/log.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kFrame = Arena::kFrame;
constexpr size_t kPage = Arena::kPage;

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t all_pages = 0, resident_pages = 0;
  statm >> all_pages >> resident_pages;
  return resident_pages * ::sysconf(_SC_PAGESIZE);
}

TEST(Arena, SaysWhereTheSystemRefusesItsAddresses) {
  std::string heard;
  set_log_sink([&](std::string_view topic, std::string_view text) {
    heard += fmt::format("{}: {}", topic, text);
  });
  Arena arena(size_t{1} << 60);
  set_log_sink({});
  EXPECT_EQ(arena.take(kMiB), nullptr);
  EXPECT_THAT(heard, ::testing::StartsWith("memory: no memory is reused: the system refuses"));
}

TEST(Arena, GivesAFreedBlockAgainToTheSameSize) {
  Arena arena(256 * kMiB);
  void* a = arena.take(3 * kMiB);
  void* b = arena.take(5 * kMiB);
  void* c = arena.take(3 * kMiB);
  arena.give(b);
  arena.give(c);
  arena.give(a);
  EXPECT_EQ(arena.take(3 * kMiB), a);
  EXPECT_EQ(arena.take(5 * kMiB), b);
  EXPECT_EQ(arena.take(3 * kMiB), c);
}

TEST(Arena, TakesTheSmallestHoleThatIsLargeEnough) {
  Arena arena(256 * kMiB);
  void* large = arena.take(8 * kMiB);
  arena.take(kPage);
  void* small = arena.take(4 * kMiB);
  arena.take(kPage);
  arena.give(large);
  arena.give(small);
  EXPECT_EQ(arena.take(3 * kMiB), small);
  EXPECT_EQ(arena.take(5 * kMiB), large);
}

TEST(Arena, JoinsFreedNeighboursInAnyOrder) {
  std::array<int, 3> order = {0, 1, 2};
  do {
    Arena arena(256 * kMiB);
    std::array<void*, 3> blocks{};
    for (void*& block : blocks) block = arena.take(5 * kMiB);
    arena.take(kPage);
    for (const int i : order) arena.give(blocks[static_cast<size_t>(i)]);
    EXPECT_EQ(arena.take(15 * kMiB), blocks[0]);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Arena, GrowsByNoMoreThanWhatAFreeTailLacks) {
  Arena arena(256 * kMiB);
  arena.give(arena.take(64 * kMiB));
  arena.take(65 * kMiB);
  EXPECT_EQ(arena.memory().mapped, static_cast<int64_t>(66 * kMiB));
}

TEST(Arena, PrefersMemoryThatIsThereToATighterHoleWithout) {
  Arena arena(256 * kMiB);
  void* cold = arena.take(8 * kMiB);
  arena.take(kFrame);
  void* warm = arena.take(16 * kMiB);
  arena.take(kFrame);
  arena.give(cold);
  arena.release();
  arena.give(warm);
  EXPECT_EQ(arena.take(8 * kMiB), warm);
}

TEST(Arena, TakesAHoleThatIsPartlyWithoutMemoryForNoMoreThanItsFirstPartHas) {
  for (const bool is_first_cold : {true, false}) {
    Arena arena(256 * kMiB);
    void* first = arena.take(4 * kMiB);
    void* second = arena.take(4 * kMiB);
    arena.take(kFrame);
    void* warm = arena.take(16 * kMiB);
    arena.take(kFrame);
    arena.give(is_first_cold ? first : second);
    arena.release();
    arena.give(is_first_cold ? second : first);
    arena.give(warm);
    EXPECT_EQ(arena.take(5 * kMiB), warm);
    EXPECT_EQ(arena.take(3 * kMiB), is_first_cold ? static_cast<char*>(warm) + 5 * kMiB : first);
  }
}

TEST(Arena, CountsInPagesAndFrames) {
  Arena arena(256 * kMiB);
  void* block = arena.take(kFrame + 1);
  EXPECT_EQ(arena.memory().live, static_cast<int64_t>(kFrame + kPage));
  EXPECT_EQ(arena.memory().mapped, static_cast<int64_t>(2 * kFrame));
  EXPECT_EQ(arena.memory().cached, static_cast<int64_t>(kFrame - kPage));
  arena.give(block);
  EXPECT_EQ(arena.memory().live, 0);
  EXPECT_EQ(arena.memory().cached, static_cast<int64_t>(2 * kFrame));
  EXPECT_EQ(arena.memory().peak_live, static_cast<int64_t>(kFrame + kPage));
}

TEST(Arena, OwnsItsBlocksAndNothingElse) {
  Arena arena(kFrame);
  char* block = static_cast<char*>(arena.take(kFrame));
  EXPECT_TRUE(arena.owns(block));
  EXPECT_TRUE(arena.owns(block + kFrame - 1));
  EXPECT_FALSE(arena.owns(block - 1));
  EXPECT_FALSE(arena.owns(block + kFrame));
  EXPECT_FALSE(arena.owns(&arena));
  EXPECT_FALSE(arena.owns(nullptr));
}

TEST(Arena, HasNothingToGiveOnceItsAddressesAreUsedUp) {
  Arena arena(8 * kMiB);
  EXPECT_EQ(arena.take(8 * kMiB + 1), nullptr);
  EXPECT_EQ(arena.take(std::numeric_limits<size_t>::max()), nullptr);
  void* all = arena.take(8 * kMiB);
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(arena.take(1), nullptr);
  arena.give(all);
  EXPECT_EQ(arena.take(8 * kMiB), all);
}

TEST(Arena, HasNothingToGiveWhereTheSystemRefusesAddresses) {
  Arena arena(std::numeric_limits<size_t>::max() / 2);
  EXPECT_EQ(arena.take(kMiB), nullptr);
  EXPECT_FALSE(arena.owns(&arena));
  EXPECT_EQ(arena.release(), 0);
}

TEST(Arena, ReleaseGivesMemoryBackToTheSystem) {
  constexpr int64_t kBytes = 256 * kMiB;
  Arena arena(1024 * kMiB);
  void* block = arena.take(kBytes);
  std::memset(block, 1, kBytes);
  const int64_t full = resident_bytes();
  arena.give(block);
  EXPECT_GT(resident_bytes(), full - kBytes / 8) << "kept until told otherwise";
  EXPECT_EQ(arena.release(), kBytes);
  EXPECT_LT(resident_bytes(), full - kBytes * 7 / 8);
  EXPECT_EQ(arena.memory().mapped, 0);
  EXPECT_EQ(arena.memory().peak_live, 0);
}

TEST(Arena, ReleaseKeepsWhatIsLive) {
  Arena arena(256 * kMiB);
  void* before = arena.take(5 * kMiB);
  char* live = static_cast<char*>(arena.take(kPage));
  void* after = arena.take(5 * kMiB);
  std::memset(live, 7, kPage);
  arena.give(before);
  arena.give(after);
  EXPECT_EQ(arena.release(), static_cast<int64_t>(10 * kMiB)) << "5 of the 6 frames";
  EXPECT_EQ(std::count(live, live + kPage, 7), static_cast<ptrdiff_t>(kPage));
}

// Blocks of all sizes come and go; the model knows where each is, and its bytes.
class RandomUse {
 public:
  explicit RandomUse(uint64_t seed) : random_(seed) {}

  void run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFatalFailure(); ++step) {
      const bool grows = live_.size() < 8 || (live_.size() < 64 && random_() % 2 == 0);
      if (step % 1000 == 999) {
        release();
      } else if (grows) {
        take();
      } else {
        give(std::next(live_.begin(), static_cast<ptrdiff_t>(random_() % live_.size())));
      }
      ASSERT_EQ(arena_.memory().live, live_bytes_);
      ASSERT_EQ(arena_.memory().cached, arena_.memory().mapped - live_bytes_);
    }
    while (!live_.empty()) give(live_.begin());
    arena_.release();
    EXPECT_EQ(arena_.memory().mapped, 0);
  }

 private:
  struct Block {
    size_t bytes;
    unsigned char mark;
  };
  using Blocks = std::map<unsigned char*, Block>;

  void take() {
    // As many small ones as large: 1 byte to 8 MiB.
    const size_t bytes = 1 + random_() % (size_t{1} << (random_() % 24));
    const int64_t mapped = arena_.memory().mapped;
    auto* at = static_cast<unsigned char*>(arena_.take(bytes));
    ASSERT_NE(at, nullptr);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0u);
    const auto next = live_.lower_bound(at);
    ASSERT_TRUE(next == live_.end() || at + bytes <= next->first) << "overlaps the next";
    ASSERT_TRUE(next == live_.begin() ||
                std::prev(next)->first + std::prev(next)->second.bytes <= at)
        << "overlaps the one before";
    const auto mark = static_cast<unsigned char>(random_());
    std::memset(at, mark, bytes);
    live_.emplace(at, Block{bytes, mark});
    live_bytes_ += rounded(bytes);
    peak_ = std::max(peak_, live_bytes_);
    if (arena_.memory().mapped > mapped) {
      ASSERT_LE(arena_.memory().mapped,
                std::max(peak_ + peak_ / int64_t{Arena::kSlack}, bytes_of_live_frames()));
    }
  }

  void give(Blocks::iterator block) {
    const auto [at, held] = *block;
    ASSERT_EQ(std::count(at, at + held.bytes, held.mark), static_cast<ptrdiff_t>(held.bytes));
    live_bytes_ -= rounded(held.bytes);
    live_.erase(block);
    arena_.give(at);
  }

  void release() {
    arena_.release();
    ASSERT_EQ(arena_.memory().mapped, bytes_of_live_frames());
    peak_ = live_bytes_;
  }

  static int64_t rounded(size_t bytes) {
    return static_cast<int64_t>((bytes + kPage - 1) / kPage * kPage);
  }

  int64_t bytes_of_live_frames() const {
    std::set<uintptr_t> frames;
    for (const auto& [at, block] : live_) {
      const auto begin = reinterpret_cast<uintptr_t>(at);
      for (uintptr_t frame = begin / kFrame; frame * kFrame < begin + block.bytes; ++frame) {
        frames.insert(frame);
      }
    }
    return static_cast<int64_t>(frames.size() * kFrame);
  }

  Arena arena_{size_t{4} << 30};
  std::mt19937_64 random_;
  Blocks live_;
  int64_t live_bytes_ = 0;
  int64_t peak_ = 0;
};

TEST(Arena, KeepsBlocksApartAndGrowthBoundedUnderRandomUse) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    RandomUse(seed).run(2500);
  }
}

#ifdef __SANITIZE_ADDRESS__
TEST(ArenaDeathTest, AddressSanitizerSeesAUseAfterFreeAndAnOverrun) {
  Arena arena(256 * kMiB);
  auto* freed = static_cast<volatile char*>(arena.take(kMiB));
  arena.give(const_cast<char*>(freed));
  EXPECT_DEATH(freed[100] = 1, "use-after-poison");
  auto* short_one = static_cast<volatile char*>(arena.take(kMiB + 8));
  EXPECT_DEATH(short_one[kMiB + 8] = 1, "use-after-poison");
}
#endif

}  // namespace
}  // namespace mezzo
