#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <torch/ordered_dict.h>

#include "mezzo/amp/gradient_facts.h"
#include "mezzo/amp/scale_update.h"
#include "mezzo/amp/scaler_options.h"
#include "mezzo/amp/scaler_state.h"
#include "mezzo/amp/step_counters.h"
#include "mezzo/amp/step_outcome.h"

namespace mezzo {

/// torch.amp.GradScaler for C++: the same methods, state machine and errors.
///
///   scaler.scale(loss).backward();  // gradients are now multiplied by the scale
///   scaler.unscale_(optimizer);     // optional: they are themselves again, to clip them
///   scaler.step(optimizer);         // skipped if any gradient is NaN or Inf
///   scaler.update();                // halve after a skip; double after growth_interval good steps
///
/// The scale lives on the device (Micikevicius et al., Mixed Precision Training, ICLR 2018,
/// section 3.2). With an optimizer that is a ScaledStep no step waits for the device, and all four
/// calls can be held by a CUDA graph (make a first call of scale() before the capture); with any
/// other, step() reads found_inf once. Optimizers are known by their address: one must outlive the
/// step that it takes part in. A copy shares the scale that the first scale() has
/// made. Not thread-safe.
///
/// An overflow at min_scale throws Error (GradScalerOptions::error_at_min_scale): from update() on
/// a CPU; elsewhere from the next method here that reads the device, once for all since the last.
class GradScaler {
 public:
  /// device: where the scale lies. Without an index (at::kCUDA) it is that of the first outputs, as
  /// in torch.amp. Throws Error for options that cannot work, and, if enabled, for a GPU where none
  /// can be used.
  explicit GradScaler(at::Device device, GradScalerOptions options = {});

  /// outputs * scale, fp32 for 16-bit outputs (65536 does not fit into fp16). Any shape; the graph
  /// is kept. May be called often between two updates (accumulation, several losses). Disabled:
  /// outputs itself.
  at::Tensor scale(const at::Tensor& outputs);
  /// The same for each.
  std::vector<at::Tensor> scale(const std::vector<at::Tensor>& outputs);

  /// Divides the optimizer's gradients by the scale, in place, and notes on the device whether any
  /// is not finite. At most once an update per optimizer. Does not synchronise. Throws for fp16
  /// gradients unless they are allowed.
  void unscale_(torch::optim::Optimizer& optimizer);

  /// optimizer.step(), unless a gradient is not finite; unscales first if unscale_ was not called.
  /// A closure is refused, as torch.amp does: its backward pass would go unscaled. Disabled:
  /// optimizer.step(closure), whose loss is the closure's to keep.
  StepOutcome step(torch::optim::Optimizer& optimizer,
                   torch::optim::Optimizer::LossClosure closure = nullptr);

  /// All of the optimizers step, or none of them if a gradient of any is not finite. (By step() one
  /// by one, each decides by its own gradients.)
  StepOutcome step(const std::vector<torch::optim::Optimizer*>& optimizers);

  /// Sets the scale for the next step from what the steps since the last update found, or to
  /// new_scale. The growth tracker is kept in the second case.
  void update(std::optional<double> new_scale = std::nullopt);

  /// new_scale: one element, without gradient, on a device of the scaler's type; copied, not read
  /// on the host. A NaN becomes min_scale.
  void update(const at::Tensor& new_scale);

  /// Whether the optimizer's gradients of this step hold a NaN or an Inf. Between unscale_ or step
  /// and update; one read from the device.
  bool found_inf(const torch::optim::Optimizer& optimizer) const;

  /// The same where it lies, without a read: 0-dim fp32 on the scaler's device, not 0 for such a
  /// gradient. Undefined where no gradient was there; disabled: undefined.
  at::Tensor found_inf_tensor(const torch::optim::Optimizer& optimizer) const;

  /// What the optimizer's gradients of this step held while they were scaled, those that
  /// name_parameters() named first and in that order. Between unscale_ or step and update; take it
  /// for a step that was skipped, or to see how many gradients underflow. The pass that unscales
  /// has kept them for gradients on a CPU; others are read now, as they stand.
  std::vector<GradientFacts> gradient_facts(const torch::optim::Optimizer& optimizer) const;

  /// The largest finite magnitude of all these gradients, scaled: how near to overflow the step
  /// was. Costs nothing; none where gradients would have to be read.
  std::optional<double> largest_gradient(const torch::optim::Optimizer& optimizer) const;

  /// What became of the updates since construction; not part of the state dict. One read.
  StepCounts counters() const;

  /// Names for gradient_facts() and for the error of an overflow at min_scale; in the order of the
  /// forward pass. The scaler then shares these tensors.
  void name_parameters(const torch::OrderedDict<std::string, at::Tensor>& named);

  /// The current scale; 1 when disabled. One read from the device.
  double get_scale() const;
  /// The same where it lies: one fp32 number on the device, which update() changes in place;
  /// undefined before the first scale(), and when disabled.
  const at::Tensor& scale_tensor() const { return tensors_.scale; }
  /// Good steps since the scale last moved. One read from the device.
  int64_t get_growth_tracker() const;
  /// An option as it is in force; to be changed between steps. Setters throw Error for a value that
  /// cannot work.
  /// @{
  double get_growth_factor() const { return options_.growth_factor; }
  double get_backoff_factor() const { return options_.backoff_factor; }
  int64_t get_growth_interval() const { return options_.growth_interval; }
  double get_min_scale() const { return options_.min_scale; }
  void set_growth_factor(double factor);
  void set_backoff_factor(double factor);
  /// An interval at or below the good steps counted so far makes the next good step grow the scale.
  void set_growth_interval(int64_t interval);
  bool is_enabled() const { return options_.enabled; }
  bool is_dynamic() const { return options_.is_dynamic; }
  /// @}

  /// Take it after update(). None when disabled.
  std::optional<GradScalerState> state_dict() const;
  /// The scale is brought into [min_scale, max_scale], the hysteresis is full again, and an
  /// overflow at min_scale that nobody has been told of is forgotten. Throws for a state that
  /// cannot work, and for none (a disabled scaler's); the scaler is then unchanged. No-op when
  /// disabled.
  /// @{
  void load_state_dict(const GradScalerState& state);
  void load_state_dict(const std::optional<GradScalerState>& state);
  /// @}

 private:
  enum class Stage { kReady, kUnscaled, kStepped };
  struct PerOptimizer {
    Stage stage = Stage::kReady;
    at::Tensor found_inf;  // 0-dim fp32 on device_, 1 or 0; undefined where nothing was checked
    std::vector<UnscaledGradient> gradients = {};
  };
  using Optimizers = std::unordered_map<torch::optim::Optimizer*, PerOptimizer>;

  void init_tensors();
  void check_scaled(const char* method) const;
  PerOptimizer& checked(torch::optim::Optimizer& optimizer, bool is_scaled_step);
  const PerOptimizer& known(const char* method, const torch::optim::Optimizer& optimizer) const;
  void check_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                       bool allow_fp16, PerOptimizer& state) const;
  at::Tensor found_inf_of_all() const;
  void finish_update(const at::Tensor& found_inf);
  void fail_at_floor(const Optimizers& optimizers) const;
  std::vector<double> read(const at::Tensor& values) const;
  double clamped(double scale) const;
  int64_t clamped_tracker(int64_t tracker) const;

  at::Device device_;
  GradScalerOptions options_;
  std::vector<NamedParameter> names_;
  int64_t init_growth_tracker_ = 0;
  // On device_, made by the first scale().
  ScaleTensors tensors_;
  at::Tensor counters_;             // make_step_counters()
  at::Tensor overflowed_at_floor_;  // 0-dim bool: an error that nobody has been told yet
  Optimizers per_optimizer_;
};

}  // namespace mezzo
