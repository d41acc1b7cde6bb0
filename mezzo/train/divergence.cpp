#include "mezzo/train/divergence.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace mezzo::train {

std::string DivergenceWatch::observe(const StepResult& result) {
  const bool is_static = min_scale_ == 0;
  bad_losses_in_a_row_ = std::isfinite(result.loss) ? 0 : bad_losses_in_a_row_ + 1;
  skips_in_a_row_ = result.is_skipped && is_static ? skips_in_a_row_ + 1 : 0;
  if (result.is_skipped && result.scale <= min_scale_) {
    return fmt::format("the gradients overflow even at the lowest loss scale, {}", min_scale_);
  }
  if (bad_losses_in_a_row_ >= kPatience) {
    return fmt::format("the loss was not finite for {} steps in a row", kPatience);
  }
  if (skips_in_a_row_ >= kPatience) {
    return fmt::format(
        "the gradients overflowed for {} steps in a row at the loss scale {:g}, which does not "
        "move. Hint: --loss-scale dynamic",
        kPatience, result.scale);
  }
  return "";
}

int64_t DivergenceWatch::bad_in_a_row() const {
  return std::max<int64_t>({1, bad_losses_in_a_row_, skips_in_a_row_});
}

}  // namespace mezzo::train
