#pragma once

#include <optional>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_sgd.h>
#include <torch/optim/sgd.h>

#include "mezzo/base/scaled_step.h"

namespace mezzo::testing {

/// torch.optim.SGD(fused=True): libtorch's own kernel divides by the scale and skips.
class FusedSgd : public torch::optim::SGD, public ScaledStep {
 public:
  FusedSgd(std::vector<at::Tensor> parameters, double lr)
      : SGD(std::move(parameters), lr), lr_(lr) {}

  void scaled_step(const std::optional<at::Tensor>& grad_scale,
                   const at::Tensor& found_inf) override {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> parameters, grads;
    for (const auto& group : param_groups()) {
      for (const at::Tensor& parameter : group.params()) {
        if (!parameter.grad().defined()) continue;
        parameters.push_back(parameter);
        grads.push_back(parameter.grad());
      }
    }
    if (parameters.empty()) return;
    at::_fused_sgd_(parameters, grads, {}, /*weight_decay=*/0.0, /*momentum=*/0.0, lr_,
                    /*dampening=*/0.0, /*nesterov=*/false, /*maximize=*/false,
                    /*is_first_step=*/false, grad_scale, found_inf);
  }

 private:
  double lr_;
};

}  // namespace mezzo::testing
