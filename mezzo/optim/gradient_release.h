#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "mezzo/optim/compact_adamw.h"

namespace mezzo::optim {

/// What a training step does with its gradients between backward and the update.
struct GradientUse {
  bool clips = false;           ///< by the norm of all of them
  int64_t accumulate = 1;       ///< backward passes to a step
  bool is_loss_scaled = false;  ///< with a scale that may have to skip the step
};

/// Throws UsageError, with the reason, if the gradients are needed after the parameter has moved:
/// clipping needs the norm of all before the first is used, accumulation adds to them, and a step
/// that overflows cannot be undone.
void check_gradient_release(const GradientUse& use);

/// While it lives, each parameter steps during the backward pass, as soon as its gradient is
/// complete, and the gradient is freed at once: never more than a few gradients are alive. Do not
/// call step() yourself; the learning rate is that of the moment of backward(). The weights get the
/// same bits as by step() after backward().
///
/// A parameter that backward needs later (a tied weight is one parameter, and safe) must not be
/// released: autograd then throws that it was changed in place. The optimizer must outlive it.
class GradientRelease {
 public:
  /// Told of a parameter whose gradient is complete: the last that is seen of it.
  using OnGradient = std::function<void(const at::Tensor& param)>;

  /// Throws as check_gradient_release(); Error if a parameter already has such a hook.
  GradientRelease(CompactAdamW& optimizer, const GradientUse& use,
                  const OnGradient& on_gradient = nullptr);
  ~GradientRelease();
  GradientRelease(const GradientRelease&) = delete;
  GradientRelease& operator=(const GradientRelease&) = delete;

 private:
  std::vector<at::Tensor> params_;
};

}  // namespace mezzo::optim
