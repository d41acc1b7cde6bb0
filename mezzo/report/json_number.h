#pragma once

#include <nlohmann/json_fwd.hpp>

namespace mezzo::report {

/// A number for a JSON file. JSON has no NaN and no infinity: those become the strings "nan", "inf"
/// and "-inf", so that which of them it was is kept (null would lose it). Finite numbers are
/// written with as many digits as reading the very same double back takes.
nlohmann::ordered_json json_number(double value);

/// Its inverse. Throws Error if `value` is neither a number nor one of the three strings.
double number_of(const nlohmann::ordered_json& value);

}  // namespace mezzo::report
