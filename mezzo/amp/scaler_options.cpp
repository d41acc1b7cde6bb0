#include "mezzo/amp/scaler_options.h"

#include <cmath>

#include "mezzo/base/check.h"

namespace mezzo {

void check_growth_factor(double factor) {
  MEZZO_CHECK(factor > 1.0 && std::isfinite(factor), "GradScaler",
              "growth_factor must be > 1, but is {}", factor);
}

void check_backoff_factor(double factor) {
  MEZZO_CHECK(factor > 0.0 && factor < 1.0, "GradScaler",
              "backoff_factor must be in (0, 1), but is {}", factor);
}

void check_growth_interval(int64_t interval) {
  MEZZO_CHECK(interval > 0, "GradScaler", "growth_interval must be > 0, but is {}", interval);
}

void check_scale(double scale) {
  MEZZO_CHECK(scale > 0.0 && scale <= std::numeric_limits<float>::max(), "GradScaler",
              "the scale must be > 0 and finite in fp32, but is {}", scale);
}

void validate(const GradScalerOptions& options) {
  if (!options.enabled) return;
  check_scale(options.init_scale);
  check_growth_factor(options.growth_factor);
  check_backoff_factor(options.backoff_factor);
  check_growth_interval(options.growth_interval);
  // The smallest normal fp32 number. Below 2^-127, 1 / scale is infinite.
  MEZZO_CHECK(options.min_scale >= 0x1p-126, "GradScaler", "min_scale must be >= 2^-126, but is {}",
              options.min_scale);
  MEZZO_CHECK(options.init_scale >= options.min_scale, "GradScaler",
              "init_scale must be at least min_scale = {}, but is {}. Hint: lower min_scale too",
              options.min_scale, options.init_scale);
  MEZZO_CHECK(options.max_scale >= options.init_scale &&
                  options.max_scale <= std::numeric_limits<float>::max(),
              "GradScaler",
              "max_scale must be at least init_scale = {} and finite in fp32, but is {}",
              options.init_scale, options.max_scale);
  MEZZO_CHECK(options.hysteresis >= 1 && options.hysteresis <= std::numeric_limits<int32_t>::max(),
              "GradScaler", "hysteresis must be >= 1, but is {}", options.hysteresis);
}

}  // namespace mezzo
