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
  const bool is_static = min_scale_ == 0;
  skips_in_a_row_ = result.is_skipped && is_static ? skips_in_a_row_ + 1 : 0;
  if (skips_in_a_row_ >= kPatience) {
    return fmt::format(
        "the gradients overflowed for {} steps in a row at the loss scale {:g}, which does not "
        "move. Hint: --loss-scale dynamic",
        kPatience, result.scale);
  }
  return "";
}

}  // namespace mezzo::train
