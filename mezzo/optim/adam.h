#pragma once

#include <vector>

#include <torch/optim/adam.h>  // AdamOptions

#include "mezzo/optim/adam_state.h"
#include "mezzo/optim/fused_optimizer.h"

namespace mezzo::optim {

/// lr, betas, eps, weight_decay, amsgrad: libtorch's own.
using AdamOptions = torch::optim::AdamOptions;

/// Adam (Kingma and Ba, ICLR 2015; weight decay is added to the gradient) in one pass over each
/// tensor (at::_fused_adam_). With 16-bit parameters small updates round away.
class Adam : public FusedOptimizer<AdamOptions, AdamState> {
 public:
  /// Throws UsageError unless lr, eps, weight_decay >= 0 and both betas are in [0, 1).
  explicit Adam(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                AdamOptions defaults = {});
  /// The same over one group.
  explicit Adam(std::vector<at::Tensor> params, AdamOptions defaults = {});

  using FusedOptimizer::set_lr_tensor;

 private:
  void update(const Bucket<AdamState>& bucket, const AdamOptions& options,
              const ScaleOfStep& scale) override;
};

}  // namespace mezzo::optim
