#pragma once

#include <vector>

namespace mezzo {

/// The middle value, or the mean of the two in the middle; 0 for none.
double median(std::vector<double> values);

}  // namespace mezzo
