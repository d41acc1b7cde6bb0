#include "mezzo/report/pacer.h"

#include <sstream>

#include "tests/testing.h"

namespace mezzo::report {
namespace {

void take_steps(Pacer& pacer, int64_t from, int64_t to) {
  for (int64_t step = from; step <= to; ++step) {
    StepRecord record;
    record.step = step;
    pacer.on_step(record);
  }
}

TEST(Pacer, WaitsAtTheStartAndAfterTheStepsItWasAllowed) {
  std::istringstream in("go 2\ngo 5\n");
  std::ostringstream out;
  bool is_hung_up = false;
  Pacer pacer(in, out, [&] { is_hung_up = true; });
  pacer.on_start({});
  EXPECT_EQ(out.str(), "at 0\n");
  EXPECT_FALSE(pacer.waits_after(1));
  EXPECT_TRUE(pacer.waits_after(2));
  take_steps(pacer, 1, 2);
  EXPECT_EQ(out.str(), "at 0\nat 2\n");
  EXPECT_FALSE(pacer.waits_after(4)) << "it was told to go on until 5";
  take_steps(pacer, 3, 4);
  pacer.on_end({});
  EXPECT_EQ(out.str(), "at 0\nat 2\nend\n");
  EXPECT_FALSE(is_hung_up);
}

TEST(Pacer, AResumedRunIsReadyAtItsCheckpointsStep) {
  std::istringstream in("go 9\n");
  std::ostringstream out;
  Pacer pacer(in, out, [] {});
  RunInfo info;
  info.start_step = 7;
  pacer.on_start(info);
  EXPECT_EQ(out.str(), "at 7\n");
}

TEST(Pacer, TellsOnceThatTheOtherSideHasHungUpAndWaitsNoMore) {
  std::istringstream in("go 1\n");
  std::ostringstream out;
  int hang_ups = 0;
  Pacer pacer(in, out, [&] { ++hang_ups; });
  pacer.on_start({});
  take_steps(pacer, 1, 20);
  EXPECT_EQ(hang_ups, 1);
  EXPECT_EQ(out.str(), "at 0\nat 1\n");
  EXPECT_FALSE(pacer.waits_after(21));
}

}  // namespace
}  // namespace mezzo::report
