#include "mezzo/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "mezzo/base/check.h"

namespace mezzo::optim {

ScheduleKind schedule_kind(std::string_view name) {
  if (name == "cosine") {
    return ScheduleKind::kCosine;
  }
  if (name == "linear") {
    return ScheduleKind::kLinear;
  }
  MEZZO_CHECK_USAGE(name == "constant", "schedule",
                    "the kind must be cosine, linear or constant, but is \"{}\"", name);
  return ScheduleKind::kConstant;
}

double Schedule::lr_at(int64_t step) const {
  const int64_t peak = std::max<int64_t>(warmup - 1, 0);
  if (step < peak) {
    return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  }
  if (step == peak || kind == ScheduleKind::kConstant) {
    return lr;
  }
  if (step >= steps - 1) {
    return min_lr;
  }
  const double p = static_cast<double>(step - peak) / static_cast<double>(steps - 1 - peak);
  const double share =
      kind == ScheduleKind::kCosine ? (1.0 + std::cos(std::numbers::pi * p)) / 2.0 : 1.0 - p;
  return min_lr + (lr - min_lr) * share;
}

void validate(const Schedule& schedule) {
  MEZZO_CHECK_USAGE(schedule.lr > 0 && std::isfinite(schedule.lr), "schedule",
                    "lr must be > 0, but is {}", schedule.lr);
  MEZZO_CHECK_USAGE(schedule.min_lr >= 0 && schedule.min_lr <= schedule.lr, "schedule",
                    "min_lr must be in [0, lr = {}], but is {}", schedule.lr, schedule.min_lr);
  MEZZO_CHECK_USAGE(schedule.steps > 0, "schedule", "steps must be > 0, but is {}", schedule.steps);
  MEZZO_CHECK_USAGE(schedule.warmup >= 0 && schedule.warmup <= schedule.steps, "schedule",
                    "warmup must be in [0, steps = {}], but is {}", schedule.steps,
                    schedule.warmup);
}

}  // namespace mezzo::optim
