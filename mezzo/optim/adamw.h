#pragma once

#include <map>
#include <string>
#include <vector>

#include <torch/optim/adamw.h>  // AdamWOptions

#include "mezzo/base/scaled_step.h"
#include "mezzo/optim/parameter_groups.h"

namespace mezzo::optim {

/// lr, betas, eps, weight_decay, amsgrad: libtorch's own, so that a program changes one word to
/// use this optimizer, and libtorch's learning rate schedulers work with it.
using AdamWOptions = torch::optim::AdamWOptions;

/// What AdamW remembers of one parameter.
struct AdamWState : public torch::optim::OptimizerCloneableParamState<AdamWState> {
  at::Tensor step;            // 0-dim fp32 on the parameter's device: counts steps not skipped
  at::Tensor exp_avg;         // first moment, shape and dtype of the parameter
  at::Tensor exp_avg_sq;      // second moment, likewise
  at::Tensor max_exp_avg_sq;  // its running maximum; only with amsgrad
};

/// AdamW (decoupled weight decay) in one pass over each tensor (at::_fused_adamw_).
///
/// A parameter without a gradient is left alone. Parameters are dense floating-point tensors of
/// any mix of devices and dtypes. Moments have the parameter's dtype: with 16-bit parameters small
/// updates round away. Neither step waits for the device.
class AdamW : public torch::optim::Optimizer, public ScaledStep {
 public:
  /// Throws UsageError unless lr, eps, weight_decay >= 0 and both betas are in [0, 1).
  explicit AdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                 AdamWOptions defaults = {});
  explicit AdamW(std::vector<at::Tensor> params, AdamWOptions defaults = {});

  /// One step; returns the closure's loss, or an undefined tensor without a closure.
  at::Tensor step(LossClosure closure = nullptr) override;

  /// ScaledStep's, see there: divides the gradients by grad_scale, and changes no bit of
  /// parameters, moments and step counts if found_inf is not zero. All parameters must be on the
  /// device of the two. A step that is taken leaves the gradients unscaled.
  void scaled_step(const std::optional<at::Tensor>& grad_scale,
                   const at::Tensor& found_inf) override;

  /// All state by parameter: "step.<name>", "exp_avg.<name>", "exp_avg_sq.<name>" and, with
  /// amsgrad, "max_exp_avg_sq.<name>"; zeros for a parameter that has not stepped yet. The tensors
  /// are the optimizer's own: write or clone them before the next step.
  /// Learning rate and other options are not state. Throws Error if `named` misses a parameter.
  std::map<std::string, at::Tensor> named_state(const NamedParameters& named);

  /// Takes copies of what named_state() gave. Throws Error, and changes nothing, if a key is
  /// missing or unknown, or a shape or dtype differs.
  void load_named_state(const NamedParameters& named,
                        const std::map<std::string, at::Tensor>& state);

  /// libtorch's archives key the state by address; both throw and point to named_state().
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

 private:
  void update(const std::optional<at::Tensor>& grad_scale,
              const std::optional<at::Tensor>& found_inf);
  AdamWState& state_of(const at::Tensor& param, bool amsgrad);
  /// f(name, tensor) for each tensor of the state, by its key.
  template <class F>
  void for_each_state(const NamedParameters& named, F&& f);
};

}  // namespace mezzo::optim
