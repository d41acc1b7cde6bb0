#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mezzo::report {

/// A curve of the whole run in a few characters, which remembers a bounded number of points: when
/// full, neighbours are averaged and each point stands for twice as many values. Values that are
/// not finite are left out.
class Sparkline {
 public:
  void add(double value);

  /// `columns` characters, from ▁ (lowest) to █ (highest); "" before the first point.
  std::string draw(size_t columns) const;

 private:
  std::vector<double> points_;
  size_t values_per_point_ = 1;
  double pending_sum_ = 0;
  size_t pending_ = 0;
};

}  // namespace mezzo::report
