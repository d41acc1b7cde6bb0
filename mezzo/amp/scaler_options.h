#pragma once

#include <cstdint>
#include <functional>
#include <limits>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// torch.amp.GradScaler's arguments, with its defaults, and what it lacks.
struct GradScalerOptions {
  double init_scale = 65536.0;     ///< a power of two, so that scaling is exact
  double growth_factor = 2.0;      ///< > 1
  double backoff_factor = 0.5;     ///< in (0, 1)
  int64_t growth_interval = 2000;  ///< consecutive good steps before the scale grows
  bool enabled = true;             ///< false: every method passes through

  /// The scale never leaves [min_scale, max_scale], whoever sets it. At least 2^-126, the smallest
  /// normal fp32 number: not far below, the inverse of the scale is infinite.
  double min_scale = 1.0;
  /// Growth stops here.
  double max_scale = std::numeric_limits<float>::max();
  bool is_dynamic = true;  ///< false: init_scale for good; overflowed steps are still skipped

  /// The scale backs off at the hysteresis-th overflow since it last grew; all later ones back off
  /// at once.
  int64_t hysteresis = 1;
  /// It backs off at the hysteresis-th overflow in a row, as every good step refills the count.
  bool consecutive_hysteresis = false;

  /// An overflow that would lower a scale that already is min_scale throws Error, which names the
  /// parameters with the most non-finite gradients. False: such a step is skipped like any other.
  bool error_at_min_scale = true;

  bool allow_fp16_grads = false;  ///< unscale fp16 gradients, which torch.amp refuses

  /// Combines found_inf over ranks: is given one optimizer's found_inf, 0-dim fp32 on the scaler's
  /// device, and leaves the largest of all ranks in it (max_over() makes one for a process group).
  /// Called once per optimizer and update, also where no parameter has a gradient.
  std::function<void(at::Tensor&)> reduce_found_inf = nullptr;
};

/// Throws Error for options that cannot work; does nothing when they are disabled.
void validate(const GradScalerOptions& options);
/// Throws Error for a value that cannot work, naming it.
/// @{
void check_scale(double scale);
void check_growth_factor(double factor);
void check_backoff_factor(double factor);
void check_growth_interval(int64_t interval);
/// @}

}  // namespace mezzo
