#include "mezzo/report/sparkline.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace mezzo::report {
namespace {

constexpr size_t kMaxPoints = 256;
constexpr std::array<const char*, 8> kLevels = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

double mean(const std::vector<double>& values, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += values[i];
  return sum / static_cast<double>(end - begin);
}

}  // namespace

void Sparkline::add(double value) {
  if (!std::isfinite(value)) return;
  pending_sum_ += value;
  if (++pending_ < values_per_point_) return;
  points_.push_back(pending_sum_ / static_cast<double>(pending_));
  pending_sum_ = 0;
  pending_ = 0;
  if (points_.size() < kMaxPoints) return;
  for (size_t i = 0; i < kMaxPoints / 2; ++i) points_[i] = mean(points_, 2 * i, 2 * i + 2);
  points_.resize(kMaxPoints / 2);
  values_per_point_ *= 2;
}

std::string Sparkline::draw(size_t columns) const {
  columns = std::min(columns, points_.size());
  std::vector<double> heights;
  for (size_t i = 0; i < columns; ++i) {
    const size_t begin = i * points_.size() / columns;
    heights.push_back(mean(points_, begin, (i + 1) * points_.size() / columns));
  }
  if (heights.empty()) return "";
  const auto [lowest, highest] = std::minmax_element(heights.begin(), heights.end());
  const double range = *highest - *lowest;
  std::string line;
  for (const double height : heights) {
    const double share = range > 0 ? (height - *lowest) / range : 0;
    line += kLevels[static_cast<size_t>(std::lround(share * (kLevels.size() - 1)))];
  }
  return line;
}

}  // namespace mezzo::report
