#include "mezzo/report/json_number.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double through_json(double value) {
  return number_of(nlohmann::ordered_json::parse(json_number(value).dump()));
}

TEST(JsonNumber, EveryDoubleComesBackAsItWas) {
  for (const double value : {0.0, 1.0 / 3, -1e-310, 4.1273, 65536.0, kInf, -kInf}) {
    EXPECT_EQ(through_json(value), value);
  }
  EXPECT_TRUE(std::isnan(through_json(NAN)));
}

TEST(JsonNumber, WhatJsonCannotSayIsAString) {
  EXPECT_EQ(json_number(NAN).dump(), "\"nan\"");
  EXPECT_EQ(json_number(kInf).dump(), "\"inf\"");
  EXPECT_EQ(json_number(-kInf).dump(), "\"-inf\"");
}

TEST(JsonNumber, RefusesWhatIsNoNumber) {
  EXPECT_THROW_WITH(number_of("many"), "but is \"many\"");
  EXPECT_THROW_WITH(number_of(nullptr), "but is null");
}

}  // namespace
}  // namespace mezzo::report
