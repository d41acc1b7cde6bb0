#pragma once

#include <vector>

#include <torch/optim/adagrad.h>  // AdagradOptions

#include "mezzo/optim/fused_optimizer.h"

namespace mezzo::optim {

/// lr, lr_decay, weight_decay, initial_accumulator_value, eps: libtorch's own.
using AdagradOptions = torch::optim::AdagradOptions;

/// What Adagrad remembers of one parameter.
struct AdagradState : public torch::optim::OptimizerCloneableParamState<AdagradState> {
  at::Tensor step;  ///< 0-dim fp32 on the parameter's device: counts steps not skipped
  at::Tensor sum;   ///< of squared gradients, shape and dtype of the parameter

  /// Makes what is not there yet: step 0, sum initial_accumulator_value.
  void complete(const at::Tensor& param, const AdagradOptions& options);
  /// torch::load's and torch::save's.
  /// @{
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  /// @}
  /// Throws Error for what was read for a parameter unlike this one.
  void check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const;
};

/// Adagrad (Duchi, Hazan and Singer, JMLR 2011) in one pass over each tensor (at::_fused_adagrad_).
class Adagrad : public FusedOptimizer<AdagradOptions, AdagradState> {
 public:
  /// Throws UsageError unless lr, lr_decay, weight_decay, initial_accumulator_value, eps >= 0.
  explicit Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                   AdagradOptions defaults = {});
  /// The same over one group.
  explicit Adagrad(std::vector<at::Tensor> params, AdagradOptions defaults = {});

 private:
  void update(const Bucket<AdagradState>& bucket, const AdagradOptions& options,
              const ScaleOfStep& scale) override;
};

}  // namespace mezzo::optim
