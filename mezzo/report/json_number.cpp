#include "mezzo/report/json_number.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"

namespace mezzo::report {

nlohmann::ordered_json json_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

double number_of(const nlohmann::ordered_json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  MEZZO_CHECK(value == "-inf", "number",
              "must be a number, \"nan\", \"inf\" or \"-inf\", but is {}", value.dump());
  return -std::numeric_limits<double>::infinity();
}

}  // namespace mezzo::report
