#pragma once

#include <chrono>

namespace mezzo {

/// Runs from where it is made.
class Stopwatch {
 public:
  double ms() const { return ms_until(Clock::now()); }

  /// Begins anew, and says for how long it has run until then.
  double restart() {
    const Clock::time_point now = Clock::now();
    const double ms = ms_until(now);
    begin_ = now;
    return ms;
  }

 private:
  using Clock = std::chrono::steady_clock;

  double ms_until(Clock::time_point end) const {
    return std::chrono::duration<double, std::milli>(end - begin_).count();
  }

  Clock::time_point begin_ = Clock::now();
};

}  // namespace mezzo
