#pragma once

#include <vector>

#include <torch/optim/sgd.h>  // SGDOptions

#include "mezzo/optim/fused_optimizer.h"

namespace mezzo::optim {

/// lr, momentum, dampening, weight_decay, nesterov: libtorch's own.
using SGDOptions = torch::optim::SGDOptions;

/// What SGD remembers of one parameter; nothing without momentum.
struct SGDState : public torch::optim::OptimizerCloneableParamState<SGDState> {
  at::Tensor step;             ///< 0-dim fp32 on the parameter's device: counts steps not skipped
  at::Tensor momentum_buffer;  ///< shape and dtype of the parameter

  /// Makes, as zeros, what is not there yet.
  void complete(const at::Tensor& param, const SGDOptions& options);
  /// torch::load's and torch::save's.
  /// @{
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  /// @}
  /// Throws Error for what was read for a parameter unlike this one.
  void check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const;
};

/// Stochastic gradient descent with momentum (Sutskever et al., ICML 2013) in one pass over each
/// tensor (at::_fused_sgd_).
class SGD : public FusedOptimizer<SGDOptions, SGDState> {
 public:
  /// Throws UsageError unless lr, momentum, weight_decay >= 0, and, with nesterov, momentum > 0
  /// and dampening is 0.
  explicit SGD(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
               SGDOptions defaults);
  /// The same over one group.
  explicit SGD(std::vector<at::Tensor> params, SGDOptions defaults);

 private:
  void update(const Bucket<SGDState>& bucket, const SGDOptions& options,
              const ScaleOfStep& scale) override;
  void update_damped(const Bucket<SGDState>& bucket, const SGDOptions& options,
                     const ScaleOfStep& scale);
};

}  // namespace mezzo::optim
