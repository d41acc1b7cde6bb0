#include "mezzo/base/stopwatch.h"

#include <thread>

#include "tests/testing.h"

namespace mezzo {
namespace {

TEST(Stopwatch, RunsFromWhereItIsMadeAndFromARestart) {
  using std::chrono::milliseconds;
  Stopwatch all, part;
  std::this_thread::sleep_for(milliseconds(20));
  const double first = part.restart();
  EXPECT_GE(first, 20);
  std::this_thread::sleep_for(milliseconds(10));
  const double second = part.ms();
  EXPECT_GE(second, 10);
  const double both = all.ms();
  EXPECT_LE(first + second, both + 1.0) << "nothing is counted twice";
  EXPECT_GE(part.ms(), second) << "it goes on";
}

}  // namespace
}  // namespace mezzo
