#include "mezzo/kernels/cuda/launch.h"

#include "tests/testing.h"

namespace mezzo::kernels::cuda {
namespace {

TEST(RowLayout, HoldsEachRowThatItTakesInWholeWarpsOfUpTo256Threads) {
  for (int64_t C = 4; C <= 8192; C += 4) {
    const RowLayout layout = row_layout(C);
    ASSERT_EQ(layout.threads % kWarp, 0) << C;
    ASSERT_LE(layout.threads, 256) << C;
    ASSERT_GE(4 * int64_t{layout.threads} * layout.items, C) << C;
    ASSERT_LT(4 * int64_t{layout.threads - kWarp} * layout.items, C)
        << C;  // no warp has nothing to do
  }
}

TEST(RowLayout, TakesTheFewestItems) {
  EXPECT_EQ(row_layout(768).items, 1);
  EXPECT_EQ(row_layout(1024).items, 1);
  EXPECT_EQ(row_layout(1600).items, 2);
  EXPECT_EQ(row_layout(8192).items, 8);
}

TEST(RowLayout, RefusesRowsThatDoNotFit) {
  for (const int64_t C : {-4, 0, 1, 6, 771, 8196}) EXPECT_EQ(row_layout(C).threads, 0) << C;
}

}  // namespace
}  // namespace mezzo::kernels::cuda
