#include "mezzo/train/loss_warning.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "mezzo/base/median.h"

namespace mezzo::train {
namespace {

constexpr double kDeviationOfNormal = 1.4826;  // standard deviation over median deviation

double median_of(const std::deque<double>& window) {
  return median({window.begin(), window.end()});
}

double deviation_of(const std::deque<double>& window, double middle) {
  std::vector<double> distances;
  for (const double value : window) distances.push_back(std::abs(value - middle));
  return kDeviationOfNormal * median(std::move(distances));
}

}  // namespace

bool LossWarning::take(std::deque<double>& window, double value) {
  window.push_back(value);
  if (window.size() > kWindow) window.pop_front();
  return window.size() == kWindow;
}

std::vector<std::string> LossWarning::observe(int64_t step, double loss, double grad_norm) {
  std::vector<std::string> said;
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) return said;
  if (losses_.size() == kWindow && step > quiet_until_) {
    const double middle = median_of(losses_), norm = median_of(norms_);
    const double leap =
        std::max(kLeapDeviations * deviation_of(losses_, middle), kLeapShare * std::abs(middle));
    if (loss > middle + leap)
      said.push_back(fmt::format("the loss leaps to {:.4g}, from {:.4g}, the median of {} steps",
                                 loss, middle, kWindow));
    if (norm > 0.0 && grad_norm > kLeapOfNorm * norm)
      said.push_back(
          fmt::format("the gradient norm leaps to {:.4g}, from {:.4g}, the median of {} steps",
                      grad_norm, norm, kWindow));
    if (!said.empty()) quiet_until_ = step + static_cast<int64_t>(kWindow);
  }
  take(norms_, grad_norm);
  if (!take(losses_, loss)) return said;

  const double middle = median_of(losses_);
  if (lowest_at_ == 0 || middle < lowest_) {
    lowest_ = middle;
    lowest_at_ = step;
    told_rise_ = 0.0;
  } else if (middle - lowest_ > std::max(kRise, 2 * told_rise_)) {
    told_rise_ = middle - lowest_;
    said.push_back(
        fmt::format("the loss rises: its median of {} steps was {:.4g} at step {}, now "
                    "it is {:.4g}",
                    kWindow, lowest_, lowest_at_, middle));
  }
  return said;
}

}  // namespace mezzo::train
