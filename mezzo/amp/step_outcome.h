#pragma once

#include <utility>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// Whether GradScaler::step() stepped. Cheap to drop: the device is read only if asked.
class StepOutcome {
 public:
  /// Known already.
  explicit StepOutcome(bool has_stepped) : has_stepped_(has_stepped) {}
  /// found_inf: one element on the device; the step was taken where it is 0.
  explicit StepOutcome(at::Tensor found_inf) : found_inf_(std::move(found_inf)) {}

  /// True if the optimizer stepped, or all of them did. Waits for the device if the optimizer skips
  /// by itself there (ScaledStep); else no read.
  bool stepped() const {
    return found_inf_.defined() ? found_inf_.item<float>() == 0.0f : has_stepped_;
  }

 private:
  bool has_stepped_ = true;
  at::Tensor found_inf_;
};

}  // namespace mezzo
