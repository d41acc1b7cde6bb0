#include "mezzo/optim/schedule.h"

#include <cmath>
#include <limits>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

Schedule schedule(ScheduleKind kind) {
  return {.kind = kind, .lr = 1.0, .min_lr = 0.1, .warmup = 4, .steps = 14};
}

TEST(Schedule, WarmUpRisesInEqualPartsToTheFullRate) {
  for (const auto kind : {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kConstant}) {
    const Schedule s = schedule(kind);
    EXPECT_EQ(s.lr_at(0), 0.25);
    EXPECT_EQ(s.lr_at(1), 0.5);
    EXPECT_EQ(s.lr_at(2), 0.75);
    EXPECT_EQ(s.lr_at(3), 1.0);
  }
}

TEST(Schedule, LinearFallsInEqualPartsToTheLastStep) {
  const Schedule s = schedule(ScheduleKind::kLinear);
  EXPECT_DOUBLE_EQ(s.lr_at(4), 1.0 - 0.09);
  EXPECT_DOUBLE_EQ(s.lr_at(8), 0.55);
  EXPECT_DOUBLE_EQ(s.lr_at(12), 0.19);
  EXPECT_EQ(s.lr_at(13), 0.1);
}

TEST(Schedule, CosineIsHalfWayInTheMiddleAndSlowAtBothEnds) {
  const Schedule s = schedule(ScheduleKind::kCosine);
  EXPECT_DOUBLE_EQ(s.lr_at(8), 0.55);
  const double cos_18_degrees = std::sqrt(10 + 2 * std::sqrt(5.0)) / 4;  // p = 1 / 10
  EXPECT_DOUBLE_EQ(s.lr_at(4), 0.1 + 0.45 * (1 + cos_18_degrees));
  EXPECT_DOUBLE_EQ(s.lr_at(12), 0.1 + 0.45 * (1 - cos_18_degrees));
  EXPECT_EQ(s.lr_at(13), 0.1);
}

TEST(Schedule, StaysAtTheEndAfterTheLastStep) {
  EXPECT_EQ(schedule(ScheduleKind::kCosine).lr_at(14), 0.1);
  EXPECT_EQ(schedule(ScheduleKind::kLinear).lr_at(1'000'000), 0.1);
  EXPECT_EQ(schedule(ScheduleKind::kConstant).lr_at(1'000'000), 1.0);
}

TEST(Schedule, WithoutWarmUpStartsAtTheFullRate) {
  Schedule s = schedule(ScheduleKind::kCosine);
  for (const int64_t warmup : {0, 1}) {
    s.warmup = warmup;
    EXPECT_EQ(s.lr_at(0), 1.0);
    EXPECT_LT(s.lr_at(1), 1.0);
    EXPECT_EQ(s.lr_at(13), 0.1);
  }
}

TEST(Schedule, ThatIsAllWarmUpEndsAtTheFullRate) {
  Schedule s = schedule(ScheduleKind::kCosine);
  s.warmup = s.steps;
  EXPECT_EQ(s.lr_at(13), 1.0);
  EXPECT_EQ(s.lr_at(14), 0.1);
}

TEST(Schedule, OfOneStepRunsItAtTheFullRate) {
  EXPECT_EQ((Schedule{.lr = 0.5, .min_lr = 0.1, .warmup = 0, .steps = 1}).lr_at(0), 0.5);
}

TEST(Schedule, NeverRisesAfterWarmUp) {
  for (const auto kind : {ScheduleKind::kCosine, ScheduleKind::kLinear}) {
    const Schedule s = schedule(kind);
    for (int64_t step = 4; step < 20; ++step) {
      EXPECT_LE(s.lr_at(step), s.lr_at(step - 1)) << step;
      EXPECT_GE(s.lr_at(step), 0.1) << step;
    }
  }
}

TEST(Schedule, KindsHaveNames) {
  EXPECT_EQ(schedule_kind("cosine"), ScheduleKind::kCosine);
  EXPECT_EQ(schedule_kind("linear"), ScheduleKind::kLinear);
  EXPECT_EQ(schedule_kind("constant"), ScheduleKind::kConstant);
  EXPECT_THROW(schedule_kind("step"), UsageError);
  EXPECT_THROW_WITH(schedule_kind("step"), "must be cosine, linear or constant, but is \"step\"");
}

TEST(Schedule, ValidationNamesKeyAndValue) {
  EXPECT_NO_THROW(validate(schedule(ScheduleKind::kCosine)));
  EXPECT_THROW(validate({.lr = 0}), UsageError);
  EXPECT_THROW_WITH(validate({.lr = 0}), "lr must be > 0, but is 0");
  EXPECT_THROW_WITH(validate({.lr = std::numeric_limits<double>::quiet_NaN()}), "lr must be > 0");
  EXPECT_THROW_WITH(validate({.lr = 0.1, .min_lr = 0.2}),
                    "min_lr must be in [0, lr = 0.1], but is 0.2");
  EXPECT_THROW_WITH(validate({.steps = 0}), "steps must be > 0, but is 0");
  EXPECT_THROW_WITH(validate({.warmup = 5, .steps = 4}), "warmup must be in [0, steps = 4]");
}

}  // namespace
}  // namespace mezzo::optim
