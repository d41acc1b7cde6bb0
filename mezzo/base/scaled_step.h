#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// An optimizer whose gradients can be unscaled, and whose step can be skipped, on the device:
/// nobody has to wait for the device to learn whether this step overflowed. An optimizer inherits
/// it beside torch::optim::Optimizer; a gradient scaler asks for it with dynamic_cast, and falls
/// back to one host read of found_inf where it is not there.
class ScaledStep {
 public:
  virtual ~ScaledStep() = default;

  /// One step on the parameters' gradients as they stand.
  ///   grad_scale  fp32, one element, on any device: the gradients are still multiplied by it, and
  ///               the step divides it out. Absent: they are unscaled already.
  ///   found_inf   fp32, one element, on any device: where it is not zero the step changes nothing
  ///               at all: no parameter, no moment, not even the step count.
  /// Where parameters lie elsewhere, the two are copied to them. The gradients themselves may be
  /// left scaled. Does not synchronise with the device, unless parameters are on a CPU and the two
  /// are not. Throws Error if either tensor has another dtype or size.
  virtual void scaled_step(const std::optional<at::Tensor>& grad_scale,
                           const at::Tensor& found_inf) = 0;
};

}  // namespace mezzo
