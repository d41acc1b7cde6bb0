#pragma once

#include <gtest/gtest.h>

#include "mezzo/amp/scaler_state.h"

namespace mezzo::testing {

/// Every number of a scaler's state is the other's.
inline void expect_state(const GradScalerState& actual, const GradScalerState& expected) {
  EXPECT_EQ(actual.scale, expected.scale);
  EXPECT_EQ(actual.growth_factor, expected.growth_factor);
  EXPECT_EQ(actual.backoff_factor, expected.backoff_factor);
  EXPECT_EQ(actual.growth_interval, expected.growth_interval);
  EXPECT_EQ(actual.growth_tracker, expected.growth_tracker);
}

}  // namespace mezzo::testing
