#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/amp/precision.h"
#include "mezzo/base/scaled_step.h"
#include "mezzo/models/language_model.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/compact_adamw.h"

namespace mezzo::train {

/// The optimizer of a precision mode over a model, and what it holds of the run's state.
///
/// Where the mode splits weights (precision.h), the model's matrices are bf16 from here on, and
/// their lower bits are here; on a device that Mezzo has no kernels for they stay fp32.
class RunOptimizer {
 public:
  /// AdamW with weight decay on the matrices alone, at these options' learning rate, betas, epsilon
  /// and decay.
  /// accumulates: gradients of several batches are summed to a step. Those of split weights are
  /// fp32 then, as with whole ones, so that the sum loses nothing.
  RunOptimizer(models::LanguageModel model, const PrecisionMode& mode,
               const optim::AdamWOptions& options, bool accumulates = false);

  torch::optim::Optimizer& optimizer() const { return *optimizer_; }
  ScaledStep& scaled_step() const { return *scaled_step_; }
  /// The learning rate of the next steps.
  void set_lr(double lr);
  /// From now on it also lies on the device, where a CUDA graph reads it (FusedOptimizer's
  /// set_lr_tensor()).
  void keep_lr_on_device();
  /// Null where the mode neither splits weights nor has 8-bit moments.
  optim::CompactAdamW* compact() const { return compact_; }

  /// What is remembered of all parameters: what the optimizer costs.
  std::vector<at::Tensor> state_tensors() const;

  /// The model's weights as they are stepped, by name: fp32, where they are split.
  std::map<std::string, at::Tensor> weights() const;
  /// The same as the model has them, which are no copies: of split ones the bf16 half, whose
  /// remainder is in state().
  std::map<std::string, at::Tensor> model_weights() const;
  /// The other halves alone.
  std::map<std::string, at::Tensor> remainders() const;
  /// All else by parameter, as AdamW and CompactAdamW name it.
  std::map<std::string, at::Tensor> state() const;
  /// Both back, bit for bit. Throws Error, naming `source`, unless names, shapes and dtypes are
  /// those of this model and optimizer.
  void load(const std::map<std::string, at::Tensor>& weights,
            const std::map<std::string, at::Tensor>& state, const std::string& source);
  /// Each alone, the state first: what it does not fit, the weights do not either, and a refusal
  /// has changed nothing.
  void load_state(const std::map<std::string, at::Tensor>& state, const std::string& source);
  void load_weights(const std::map<std::string, at::Tensor>& weights, const std::string& source);

 private:
  models::LanguageModel model_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  // The same object, by what it is: one of the two is there.
  optim::AdamW* plain_ = nullptr;
  optim::CompactAdamW* compact_ = nullptr;
  ScaledStep* scaled_step_ = nullptr;
  at::Tensor lr_;  // 0-dim fp32 on the device, where it is kept there
};

/// Copies `tensors` into the model's parameters. Throws Error, and changes nothing, unless names,
/// shapes and dtypes are the model's; `source` names them in errors.
void load_parameters(models::LanguageModel model, const std::map<std::string, at::Tensor>& tensors,
                     const std::string& source);

}  // namespace mezzo::train
