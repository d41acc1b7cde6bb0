#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace mezzo::train {

/// Tells of a loss or a gradient norm that leaps, and of a loss that rises for long: what mostly
/// comes before the steps that are not finite.
class LossWarning {
 public:
  /// What is to be said of a step, in a line each. Numbers that are not finite are left out: they
  /// have words of their own.
  std::vector<std::string> observe(int64_t step, double loss, double grad_norm);

 private:
  static constexpr size_t kWindow = 32;         // steps that a median is of
  static constexpr double kLeapDeviations = 8;  // of the median deviation, as for a normal spread
  static constexpr double kLeapShare = 0.15;    // and at least this share of the loss
  static constexpr double kLeapOfNorm = 20;     // times the median norm
  static constexpr double kRise = 0.3;          // nats above the lowest median

  static bool take(std::deque<double>& window, double value);

  std::deque<double> losses_, norms_;
  double lowest_ = 0.0;  // median of a window; at step
  int64_t lowest_at_ = 0;
  double told_rise_ = 0.0;
  int64_t quiet_until_ = 0;
};

}  // namespace mezzo::train
