#include "mezzo/train/loss_warning.h"

#include <cmath>
#include <limits>

#include "tests/testing.h"

namespace mezzo::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A loss that falls from 8 towards 4, with the noise of batches.
double usual_loss(int64_t step) {
  return 4.0 + 4.0 * std::exp(-static_cast<double>(step) / 50.0) + 0.1 * std::sin(7.0 * step);
}

TEST(LossWarning, IsSilentWhileTheLossFallsAndWavers) {
  LossWarning warning;
  for (int64_t step = 1; step <= 1000; ++step)
    EXPECT_THAT(warning.observe(step, usual_loss(step), 1.0 + 0.5 * std::cos(3.0 * step)),
                IsEmpty())
        << step;
}

TEST(LossWarning, TellsOfALeapOnce) {
  LossWarning warning;
  for (int64_t step = 1; step < 200; ++step) warning.observe(step, usual_loss(step), 1.0);
  EXPECT_THAT(warning.observe(200, 6.5, 1.0),
              ElementsAre(HasSubstr("the loss leaps to 6.5, from 4")));
  EXPECT_THAT(warning.observe(201, 6.7, 1.0), IsEmpty());
}

TEST(LossWarning, TellsOfAGradientNormThatLeaps) {
  LossWarning warning;
  for (int64_t step = 1; step < 200; ++step) warning.observe(step, usual_loss(step), 0.5);
  EXPECT_THAT(warning.observe(200, usual_loss(200), 40.0),
              ElementsAre("the gradient norm leaps to 40, from 0.5, the median of 32 steps"));
}

TEST(LossWarning, TellsOfASlowRiseAndAgainWhenItHasDoubled) {
  LossWarning warning;
  std::vector<std::string> said;
  for (int64_t step = 1; step <= 900; ++step) {
    const double loss = step < 300 ? 5.0 - 0.001 * step : 4.7 + 0.002 * (step - 300);
    for (const std::string& text : warning.observe(step, loss, 1.0)) said.push_back(text);
  }
  EXPECT_THAT(said, ElementsAre(HasSubstr("the loss rises"), HasSubstr("the loss rises")));
}

TEST(LossWarning, LeavesOutWhatIsNotFinite) {
  LossWarning warning;
  for (int64_t step = 1; step < 100; ++step) warning.observe(step, usual_loss(step), 1.0);
  EXPECT_THAT(warning.observe(100, std::numeric_limits<double>::quiet_NaN(), 1.0), IsEmpty());
  EXPECT_THAT(warning.observe(101, 4.0, std::numeric_limits<double>::infinity()), IsEmpty());
}

}  // namespace
}  // namespace mezzo::train
