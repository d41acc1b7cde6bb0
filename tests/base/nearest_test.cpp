#include "mezzo/base/nearest.h"

#include "tests/testing.h"

namespace mezzo {
namespace {

TEST(Nearest, DistanceCountsInsertionsDeletionsReplacementsAndSwaps) {
  EXPECT_EQ(edit_distance("steps", "steps"), 0u);
  EXPECT_EQ(edit_distance("step", "steps"), 1u);
  EXPECT_EQ(edit_distance("stepss", "steps"), 1u);
  EXPECT_EQ(edit_distance("stebs", "steps"), 1u);
  EXPECT_EQ(edit_distance("setps", "steps"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "lr"), 2u);
  EXPECT_EQ(edit_distance("lr", ""), 2u);
}

TEST(Nearest, OffersTheNearestWord) {
  EXPECT_EQ(did_you_mean("warmpu", {"width", "warmup", "steps"}), ", did you mean 'warmup'?");
}

TEST(Nearest, OffersTheFirstOfEquals) {
  EXPECT_EQ(did_you_mean("bat", {"cat", "hat"}), ", did you mean 'cat'?");
}

TEST(Nearest, OffersNothingWhenNothingIsNear) {
  EXPECT_EQ(did_you_mean("zzzzzz", {"width", "warmup"}), "");
  EXPECT_EQ(did_you_mean("steps", {}), "");
}

}  // namespace
}  // namespace mezzo
