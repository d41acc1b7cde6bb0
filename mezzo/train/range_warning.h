#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "mezzo/train/health.h"

namespace mezzo::train {

/// Tells of numbers on their way out of their dtype: activations and gradients that grow towards
/// its largest number, gradients of which much is zero or subnormal in it, updates that rounding
/// undoes. Each is told once, and again only when it has become twice as bad.
class RangeWarning {
 public:
  /// scale_is_dynamic: the loss scale keeps gradients near the end of their range on purpose.
  explicit RangeWarning(bool scale_is_dynamic) : scale_is_dynamic_(scale_is_dynamic) {}

  /// What is to be said of a step's health, in a line each.
  std::vector<std::string> observe(int64_t step, const Health& health);

 private:
  struct Point {
    int64_t step;
    double bits;  // log2 of the largest number
  };
  using History = std::deque<Point>;

  static constexpr size_t kWindow = 8;            // of watched steps, that a pace is of
  static constexpr size_t kFewest = 4;            // that a pace needs
  static constexpr double kNearBits = 1.0;        // so near an end is worth a word
  static constexpr double kPaceBits = 10.0;       // a pace is, within these of the end
  static constexpr double kExplosionBits = 10.0;  // growth that is worth a word in any dtype
  static constexpr double kLostShare = 0.5;

  void watch_range(int64_t step, const std::string& what, const numerics::Range& range);
  void watch_pace(const std::string& what, const numerics::Range& range, const History& history);
  void watch_underflow(const std::string& what, const numerics::Range& range);
  void watch_updates(const std::vector<ParameterHealth>& parameters);
  void say(const std::string& key, double bits, std::string text);

  bool scale_is_dynamic_;
  std::map<std::string, History> histories_;
  std::map<std::string, double> lowest_;
  std::map<std::string, double> told_;  // how bad it was when it was told, in powers of two
  std::vector<std::string> said_;
};

}  // namespace mezzo::train
