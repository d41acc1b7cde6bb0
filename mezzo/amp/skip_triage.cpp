#include "mezzo/amp/skip_triage.h"

namespace mezzo {

std::string describe(SkipCause cause) {
  switch (cause) {
    case SkipCause::kSettling:
      return "probe: the first scale is settling";
    case SkipCause::kGrowthProbe:
      return "probe: the scale had just grown";
    default:
      return "";
  }
}

void SkipTriage::on_good_step(double scale, std::optional<double> largest) {
  last_ = {scale, largest};
}

SkipCause SkipTriage::on_skip(double scale, bool is_loss_finite) const {
  if (!is_dynamic_ || !is_loss_finite) return SkipCause::kUnexplained;
  if (!last_.has_value()) return SkipCause::kSettling;
  const double growth = scale / last_->scale;
  // Gradients that would still have been far from the end are a reason to look closer.
  const bool is_enough = last_->largest.value_or(max_) * growth >= max_;
  return growth > 1.0 && is_enough ? SkipCause::kGrowthProbe : SkipCause::kUnexplained;
}

}  // namespace mezzo
