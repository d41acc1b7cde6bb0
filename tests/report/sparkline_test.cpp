#include "mezzo/report/sparkline.h"

#include <cmath>

#include "tests/testing.h"

namespace mezzo::report {
namespace {

TEST(Sparkline, DrawsLowAndHigh) {
  Sparkline line;
  for (const double value : {4.0, 3.0, 2.0, 1.0}) line.add(value);
  EXPECT_EQ(line.draw(4), "█▆▃▁");
}

TEST(Sparkline, AveragesWhatIsMoreThanItsColumns) {
  Sparkline line;
  for (const double value : {5.0, 3.0, 1.0, -1.0}) line.add(value);
  EXPECT_EQ(line.draw(2), "█▁");
}

TEST(Sparkline, SurvivesValuesThatAreNotFinite) {
  Sparkline line;
  for (const double value : {2.0, double(NAN), double(INFINITY), 1.0}) line.add(value);
  EXPECT_EQ(line.draw(8), "█▁");
}

TEST(Sparkline, AFlatCurveIsLowAndAnEmptyOneIsNothing) {
  Sparkline line;
  EXPECT_EQ(line.draw(8), "");
  line.add(3);
  line.add(3);
  EXPECT_EQ(line.draw(8), "▁▁");
}

TEST(Sparkline, KeepsTheShapeOfALongRun) {
  Sparkline line;
  for (int i = 0; i < 100'000; ++i) line.add(-i);
  EXPECT_EQ(line.draw(8), "█▇▆▅▄▃▂▁");
}

}  // namespace
}  // namespace mezzo::report
