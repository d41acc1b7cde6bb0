#pragma once

#include <cstdint>
#include <string>

#include "mezzo/train/step.h"

namespace mezzo::train {

/// Decides when a run is beyond recovery: its loss was not finite for 20 steps in a row, as many
/// overflowed at a loss scale that does not move, or one did with the scale at its floor, so that
/// there is nothing left to lower.
class DivergenceWatch {
 public:
  /// min_scale: the scaler's floor; 0 where the scale does not move.
  explicit DivergenceWatch(double min_scale) : min_scale_(min_scale) {}

  /// Empty while the run may go on; otherwise why it may not, in words.
  std::string observe(const StepResult& result);

  /// How many steps in a row have been bad up to the last one, which counts in any case.
  int64_t bad_in_a_row() const;

 private:
  static constexpr int64_t kPatience = 20;

  double min_scale_;
  int64_t bad_losses_in_a_row_ = 0;
  int64_t skips_in_a_row_ = 0;  // at a scale that does not move
};

}  // namespace mezzo::train
