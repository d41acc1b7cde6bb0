#include "mezzo/train/divergence.h"

#include <limits>

#include "tests/testing.h"

namespace mezzo::train {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(DivergenceWatch, GivesUpAfterTwentyLossesInARowThatAreNotFinite) {
  DivergenceWatch watch(1.0);
  for (int i = 0; i < 19; ++i) EXPECT_EQ(watch.observe({.loss = kNaN}), "");
  EXPECT_THAT(watch.observe({.loss = kNaN}), ::testing::HasSubstr("not finite for 20 steps"));
}

TEST(DivergenceWatch, KnowsSinceWhenStepsAreBad) {
  DivergenceWatch watch(1.0);
  watch.observe({.loss = 2.0});
  EXPECT_EQ(watch.bad_in_a_row(), 1) << "the last one, if any";
  for (int i = 0; i < 7; ++i) watch.observe({.loss = kNaN});
  EXPECT_EQ(watch.bad_in_a_row(), 7);
}

TEST(DivergenceWatch, OneFiniteLossStartsTheCountAgain) {
  DivergenceWatch watch(1.0);
  for (int i = 0; i < 19; ++i) watch.observe({.loss = kNaN});
  watch.observe({.loss = 2.0});
  for (int i = 0; i < 19; ++i) EXPECT_EQ(watch.observe({.loss = kNaN}), "");
}

TEST(DivergenceWatch, GivesUpWhenTheLowestScaleOverflows) {
  DivergenceWatch watch(1.0);
  EXPECT_EQ(watch.observe({.loss = 2.0, .scale = 2.0, .is_skipped = true}), "");
  EXPECT_EQ(watch.observe({.loss = 2.0, .scale = 1.0, .is_skipped = false}), "");
  EXPECT_THAT(watch.observe({.loss = 2.0, .scale = 1.0, .is_skipped = true}),
              ::testing::HasSubstr("lowest loss scale"));
}

TEST(DivergenceWatch, GivesUpAfterTwentySkipsInARowAtAScaleThatDoesNotMove) {
  const StepResult skip = {.loss = 2.0, .scale = 1e30, .is_skipped = true};
  DivergenceWatch fixed(0.0), dynamic(1e-9);
  for (int i = 0; i < 19; ++i) EXPECT_EQ(fixed.observe(skip), "");
  EXPECT_EQ(fixed.observe({.loss = 2.0, .scale = 1e30}), "") << "starts the count again";
  for (int i = 0; i < 19; ++i) EXPECT_EQ(fixed.observe(skip), "");
  EXPECT_THAT(fixed.observe(skip), ::testing::HasSubstr("at the loss scale 1e+30"));
  for (int i = 0; i < 40; ++i) EXPECT_EQ(dynamic.observe(skip), "");
}

}  // namespace
}  // namespace mezzo::train
