#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
namespace mezzo {
class ScaledStep {
 public:
  virtual ~ScaledStep() = default;
  virtual void scaled_step(const std::optional<at::Tensor>& grad_scale,
                           const at::Tensor& found_inf) = 0;
};
}  // namespace mezzo
