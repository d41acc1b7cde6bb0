#include "mezzo/amp/skip_triage.h"

#include <algorithm>

namespace mezzo {
namespace {

// How much larger than the largest of many steps a gradient may be in an unlucky batch.
constexpr double kNear = 8.0;

}  // namespace

std::string describe(SkipCause cause) {
  switch (cause) {
    case SkipCause::kSettling:
      return "probe: the first scale is settling";
    case SkipCause::kGrowthProbe:
      return "probe: the scale had just grown";
    case SkipCause::kOnTrial:
      return "probe: the scale had not yet held for a growth interval";
    default:
      return "";
  }
}

void SkipTriage::on_good_step(double scale, std::optional<double> largest) {
  if (good_.has_value() && good_->scale == scale) {
    good_->last = largest;
    good_->largest = std::max(good_->largest, largest);
    ++good_->count;
  } else {
    good_ = {scale, largest, largest, 1};
  }
  if (good_->count >= growth_interval_) proved_ = std::max(proved_, scale);
}

// Gradients that would still have been far from the end are a reason to look closer. Where nobody
// knows how large they were, as after a resume, a scale that has grown gets the benefit of the
// doubt, and one that has worked does not.
SkipCause SkipTriage::on_skip(double scale, bool is_loss_finite) const {
  if (!is_dynamic_ || !is_loss_finite) return SkipCause::kUnexplained;
  if (!good_.has_value()) return SkipCause::kSettling;
  const double growth = scale / good_->scale;
  if (growth > 1.0) {
    const bool is_enough = good_->last.value_or(max_) * growth >= max_;
    return is_enough ? SkipCause::kGrowthProbe : SkipCause::kUnexplained;
  }
  const bool was_near = good_->largest.value_or(0.0) * growth * kNear >= max_;
  return scale > proved_ && was_near ? SkipCause::kOnTrial : SkipCause::kUnexplained;
}

}  // namespace mezzo
