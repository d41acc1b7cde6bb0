#pragma once

#include <map>
#include <string>
#include <vector>

#include "mezzo/optim/compact_adamw_state.h"
#include "mezzo/optim/fused_optimizer.h"
#include "mezzo/optim/named_state.h"

namespace mezzo::optim {

/// AdamW (Loshchilov and Hutter, ICLR 2019) for little memory, in one pass over it:
///
///   weights    fp32; or split: bf16 in the model, their 16 lower bits here; together fp32, exactly
///   gradients  fp32, bf16 or fp16, whatever the weights are
///   moments    fp32, or 8 bits each (note [8-bit moments] in mezzo/kernels/adamw/moment8.h)
///
/// With 32-bit moments a step has the same bits whether the weights are fp32 or split. It steps as
/// AdamW does; amsgrad is not to be had. A step reads the gradients and leaves them as they are:
/// scaled, if they were. So a clipping factor can be folded into scaled_step()'s grad_scale, which
/// need not be a power of two: grad_scale * max(1, norm / max_norm).
///
/// Parameters on a CPU, or on a GPU that the build has kernels for, where no step waits for the
/// device; elsewhere each does.
class CompactAdamW : public FusedOptimizer<CompactAdamWOptions, CompactAdamWState> {
 public:
  /// Splits the weights of those groups that say so: their parameters are bf16 from here on.
  /// Throws UsageError unless lr, eps, weight_decay >= 0, both betas are in [0, 1) and moment_bits
  /// is 8 or 32; Error for a parameter that cannot be stepped (CompactAdamWState::complete()).
  explicit CompactAdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                        CompactAdamWOptions defaults = {});
  /// The same over one group.
  explicit CompactAdamW(std::vector<at::Tensor> params, CompactAdamWOptions defaults = {});

  /// A step of this parameter alone, if it has a gradient. Throws Error if it is not of this
  /// optimizer.
  void step_one(const at::Tensor& param);

  /// Everything remembered of all parameters: what the optimizer costs.
  std::vector<at::Tensor> state_tensors() const;

  /// All state by parameter: "step.<name>", "exp_avg.<name>", "exp_avg_sq.<name>", with 8-bit
  /// moments "exp_avg_scale.<name>" and "exp_avg_sq_scale.<name>", with split weights
  /// "remainder.<name>" (see CompactAdamWState); zeros for a parameter that has not stepped yet.
  /// With the model's own parameters it is all there is to resume bit for bit. The tensors are the
  /// optimizer's own: write or clone them before the next step. Throws Error if `named` misses a
  /// parameter.
  std::map<std::string, at::Tensor> named_state(const NamedParameters& named);

  /// Takes copies of what named_state() gave. Throws Error, and changes nothing, if a key is
  /// missing or unknown, or a shape or dtype differs.
  void load_named_state(const NamedParameters& named,
                        const std::map<std::string, at::Tensor>& state);

  /// The parameters in fp32, by name: for export, and for checkpoints that any setting can read.
  /// New tensors, of the numbers that the optimizer steps.
  std::map<std::string, at::Tensor> master_weights(const NamedParameters& named);

  /// Sets the parameters, and remainders, to what master_weights() gave: bit for bit, if they are
  /// fp32 or split. Throws Error, and changes nothing, if a key is missing or unknown, or a shape
  /// or dtype differs.
  void load_master_weights(const NamedParameters& named,
                           const std::map<std::string, at::Tensor>& masters);

  using FusedOptimizer::set_lr_tensor;

 private:
  void update(const Bucket<CompactAdamWState>& bucket, const CompactAdamWOptions& options,
              const ScaleOfStep& scale) override;
  void check_grad_dtype(const at::Tensor& param) const override;
  void check_loaded(const detail::PlaceOfParam& place, const CompactAdamWState* read,
                    const at::Tensor& param) const override;
  detail::KeyedTensors keyed_state(const NamedParameters& named);
  /// f(name, parameter, state) for each.
  template <class F>
  void for_each(const NamedParameters& named, F&& f);
};

/// CompactAdamWOptions for 8-bit moments and whatever weights a module has.
struct AdamW8bitOptions : public CompactAdamWOptions {
  AdamW8bitOptions(double lr = 1e-3);  // NOLINT(google-explicit-constructor): as libtorch's
};

/// AdamW with 8-bit moments for any torch::nn::Module: fp32 parameters stay fp32, those of 16 bits
/// are rounded each step.
class AdamW8bit : public CompactAdamW {
 public:
  explicit AdamW8bit(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                     CompactAdamWOptions defaults = AdamW8bitOptions());
  explicit AdamW8bit(std::vector<at::Tensor> params,
                     CompactAdamWOptions defaults = AdamW8bitOptions());
};

}  // namespace mezzo::optim
