#pragma once

#include <map>
#include <string>
#include <vector>

#include <torch/optim/adamw.h>  // AdamWOptions

#include "mezzo/optim/adam_state.h"
#include "mezzo/optim/fused_optimizer.h"
#include "mezzo/optim/named_state.h"
#include "mezzo/optim/parameter_groups.h"

namespace mezzo::optim {

/// lr, betas, eps, weight_decay, amsgrad: libtorch's own, so that a program changes one word to
/// use this optimizer, and libtorch's learning rate schedulers work with it.
using AdamWOptions = torch::optim::AdamWOptions;

/// AdamW (decoupled weight decay; Loshchilov and Hutter, ICLR 2019) in one pass over each tensor
/// (at::_fused_adamw_). With 16-bit parameters, whose moments are 16-bit too, small updates round
/// away.
class AdamW : public FusedOptimizer<AdamWOptions, AdamState> {
 public:
  /// Throws UsageError unless lr, eps, weight_decay >= 0 and both betas are in [0, 1).
  explicit AdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                 AdamWOptions defaults = {});
  /// The same over one group.
  explicit AdamW(std::vector<at::Tensor> params, AdamWOptions defaults = {});

  /// All state by parameter: "step.<name>", "exp_avg.<name>", "exp_avg_sq.<name>" and, with
  /// amsgrad, "max_exp_avg_sq.<name>"; zeros for a parameter that has not stepped yet. The tensors
  /// are the optimizer's own: write or clone them before the next step.
  /// Learning rate and other options are not state. Throws Error if `named` misses a parameter.
  std::map<std::string, at::Tensor> named_state(const NamedParameters& named);

  /// Takes copies of what named_state() gave. Throws Error, and changes nothing, if a key is
  /// missing or unknown, or a shape or dtype differs.
  void load_named_state(const NamedParameters& named,
                        const std::map<std::string, at::Tensor>& state);

  using FusedOptimizer::set_lr_tensor;

 private:
  void update(const Bucket<AdamState>& bucket, const AdamWOptions& options,
              const ScaleOfStep& scale) override;
  detail::KeyedTensors keyed_state(const NamedParameters& named);
};

}  // namespace mezzo::optim
