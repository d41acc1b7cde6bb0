#include "mezzo/train/divergence.h"

#include <cmath>

#include <fmt/format.h>

namespace mezzo::train {

std::string DivergenceWatch::observe(const StepResult& result) {
  if (result.is_skipped && result.scale <= min_scale_) {
    return fmt::format("the gradients overflow even at the lowest loss scale, {}", min_scale_);
  }
  bad_losses_in_a_row_ = std::isfinite(result.loss) ? 0 : bad_losses_in_a_row_ + 1;
  if (bad_losses_in_a_row_ >= kPatience) {
    return fmt::format("the loss was not finite for {} steps in a row", kPatience);
  }
  return "";
}

}  // namespace mezzo::train
