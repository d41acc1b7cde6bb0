#pragma once

#include <cstdint>
#include <string_view>

namespace mezzo::optim {

/// The shape of a Schedule after its warm-up.
enum class ScheduleKind { kCosine, kLinear, kConstant };

/// "cosine", "linear" or "constant". Throws UsageError for another word, listing these.
ScheduleKind schedule_kind(std::string_view name);

/// The learning rate of each step of a run.
///
/// Steps count from 0. The first `warmup` steps rise in equal parts, lr * (step + 1) / warmup, so
/// that step warmup - 1 runs at lr. From there to the last step, steps - 1, with p going from 0 to
/// 1 in equal parts:
///   cosine    min_lr + (lr - min_lr) * (1 + cos(pi p)) / 2
///   linear    min_lr + (lr - min_lr) * (1 - p)
///   constant  lr
/// Cosine and linear stay at min_lr after the last step.
struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;  ///< after the warm-up
  double lr = 3e-4;                           ///< the highest
  double min_lr = 3e-5;                       ///< of the last step
  int64_t warmup = 0;                         ///< steps
  int64_t steps = 1;                          ///< of the whole run, warm-up included

  /// Of the step with this number, >= 0. Pure: equal steps give equal bits.
  double lr_at(int64_t step) const;
};

/// Throws UsageError unless lr > 0, 0 <= min_lr <= lr, steps > 0 and 0 <= warmup <= steps.
void validate(const Schedule& schedule);

}  // namespace mezzo::optim
