#include "mezzo/amp/skip_triage.h"

#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr double kMax = 65504.0;
constexpr int64_t kInterval = 100;

SkipTriage after_good_step(double scale, std::optional<double> largest) {
  SkipTriage triage(/*is_dynamic=*/true, kMax, kInterval);
  triage.on_good_step(scale, largest);
  return triage;
}

SkipTriage after_good_steps(double scale, int64_t count, std::optional<double> largest) {
  SkipTriage triage = after_good_step(scale, largest);
  for (int64_t i = 1; i < count; ++i) triage.on_good_step(scale, 1.0);
  return triage;
}

TEST(SkipTriage, SkipsBeforeTheFirstGoodStepAreTheScaleSettling) {
  const SkipTriage triage(true, kMax, kInterval);
  for (double scale = 65536.0; scale >= 1.0; scale /= 2)
    EXPECT_EQ(triage.on_skip(scale, true), SkipCause::kSettling);
}

TEST(SkipTriage, ASkipRightAfterGrowthIsAProbeIfTheGradientsWereNearTheEnd) {
  EXPECT_EQ(after_good_step(1024.0, 40000.0).on_skip(2048.0, true), SkipCause::kGrowthProbe);
  EXPECT_EQ(after_good_step(1024.0, 32752.0).on_skip(2048.0, true), SkipCause::kGrowthProbe);
  EXPECT_EQ(after_good_step(1024.0, 32751.0).on_skip(2048.0, true), SkipCause::kUnexplained);
}

TEST(SkipTriage, AnUnknownMagnitudeIsGivenTheBenefitOfTheDoubt) {
  EXPECT_EQ(after_good_step(1024.0, std::nullopt).on_skip(2048.0, true), SkipCause::kGrowthProbe);
}

TEST(SkipTriage, ASkipAtAScaleThatHasHeldForAGrowthIntervalIsUnexplained) {
  SkipTriage triage = after_good_steps(1024.0, kInterval, 60000.0);
  EXPECT_EQ(triage.on_skip(1024.0, true), SkipCause::kUnexplained);
  EXPECT_EQ(triage.on_skip(512.0, true), SkipCause::kUnexplained);
  triage.on_good_step(2048.0, 60000.0);
  EXPECT_EQ(triage.on_skip(1024.0, true), SkipCause::kUnexplained);
}

TEST(SkipTriage, UntilThenItIsOnTrialIfGradientsWereNearTheEnd) {
  EXPECT_EQ(after_good_steps(1024.0, kInterval - 1, 9000.0).on_skip(1024.0, true),
            SkipCause::kOnTrial);
  EXPECT_EQ(after_good_steps(1024.0, kInterval - 1, 8000.0).on_skip(1024.0, true),
            SkipCause::kUnexplained);
  EXPECT_EQ(after_good_step(1024.0, std::nullopt).on_skip(1024.0, true), SkipCause::kUnexplained);
}

TEST(SkipTriage, AFaultThatComesBackAtEachLowerScaleIsSoonUnexplained) {
  SkipTriage triage = after_good_step(1024.0, 30000.0);
  EXPECT_EQ(triage.on_skip(1024.0, true), SkipCause::kOnTrial);
  EXPECT_EQ(triage.on_skip(512.0, true), SkipCause::kOnTrial);
  EXPECT_EQ(triage.on_skip(128.0, true), SkipCause::kUnexplained);
}

TEST(SkipTriage, ALossThatIsNotFiniteIsNeverExplained) {
  EXPECT_EQ(SkipTriage(true, kMax, kInterval).on_skip(65536.0, false), SkipCause::kUnexplained);
  EXPECT_EQ(after_good_step(1024.0, 60000.0).on_skip(2048.0, false), SkipCause::kUnexplained);
}

TEST(SkipTriage, AScaleThatDoesNotMoveExplainsNothing) {
  EXPECT_EQ(SkipTriage(/*is_dynamic=*/false, kMax, kInterval).on_skip(65536.0, true),
            SkipCause::kUnexplained);
}

TEST(SkipTriage, OnlyExplainedSkipsHaveWords) {
  EXPECT_EQ(describe(SkipCause::kSettling), "probe: the first scale is settling");
  EXPECT_EQ(describe(SkipCause::kGrowthProbe), "probe: the scale had just grown");
  EXPECT_EQ(describe(SkipCause::kOnTrial),
            "probe: the scale had not yet held for a growth interval");
  EXPECT_EQ(describe(SkipCause::kUnexplained), "");
}

}  // namespace
}  // namespace mezzo
