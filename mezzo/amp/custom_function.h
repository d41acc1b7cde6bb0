#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"

namespace mezzo {

/// torch.amp.custom_fwd for a torch::autograd::Function: the first line of its forward.
///
///   static at::Tensor forward(AutogradContext* ctx, at::Tensor x, at::Tensor w) {
///     const mezzo::CustomFwd fwd(ctx, at::kCPU, at::kFloat);
///     x = fwd.cast(x), w = fwd.cast(w);
///     ...
///   static variable_list backward(AutogradContext* ctx, variable_list grads) {
///     const mezzo::CustomBwd bwd(ctx);
///
/// With cast_inputs, forward runs with autocast off on what cast() returns; outside a region
/// nothing is changed. Without, forward runs in the region as it is.
class CustomFwd {
 public:
  /// cast_inputs: the dtype that cast() casts to, with autocast off inside; none: no cast.
  [[nodiscard]] CustomFwd(torch::autograd::AutogradContext* ctx, c10::DeviceType device,
                          std::optional<at::ScalarType> cast_inputs = std::nullopt);

  /// Floating-point tensors on the device, but for fp64, in cast_inputs, if forward was called in a
  /// region; all others as they are.
  at::Tensor cast(const at::Tensor& input) const;

 private:
  c10::DeviceType device_;
  std::optional<at::ScalarType> cast_inputs_;  // none outside a region
  std::optional<Autocast> region_;
};

/// torch.amp.custom_bwd: backward runs with autocast and cast policy as forward had them, wherever
/// it is called.
class CustomBwd {
 public:
  /// Throws Error if forward did not begin with a CustomFwd.
  [[nodiscard]] explicit CustomBwd(torch::autograd::AutogradContext* ctx);

 private:
  std::optional<Autocast> region_;
  std::optional<CastPolicyGuard> policy_;
};

}  // namespace mezzo
