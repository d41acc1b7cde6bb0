#pragma once

#include <cstddef>

#include <ATen/core/Tensor.h>

namespace mezzo::train {

/// Somebody who looks into a step while it runs, at what is gone when it is over.
class StepWatch {
 public:
  virtual ~StepWatch() = default;
  /// Before the first forward pass, of each attempt: what was seen of the one before was no step.
  virtual void before_attempt() {}
  virtual void before_forward() {}
  virtual void after_forward() {}
  /// A parameter's gradient, complete, unscaled and not clipped yet; `place` is the parameter's in
  /// model->parameters(). Where gradients are released this is the last that is seen of it.
  virtual void on_gradient(size_t place, const at::Tensor& grad) {
    static_cast<void>(place), static_cast<void>(grad);
  }
  /// All gradients have been seen.
  virtual void after_gradients() {}
  /// Stepped or skipped; the gradients are still there, where they are not released.
  virtual void after_step() {}
};

}  // namespace mezzo::train
