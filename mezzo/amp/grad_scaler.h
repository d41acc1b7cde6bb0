#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace mezzo {

/// torch.amp.GradScaler's arguments, with its defaults, and what it lacks.
struct GradScalerOptions {
  double init_scale = 65536.0;     // a power of two, so that scaling is exact
  double growth_factor = 2.0;      // > 1
  double backoff_factor = 0.5;     // in (0, 1)
  int64_t growth_interval = 2000;  // consecutive good steps before the scale grows
  bool enabled = true;             // false: every method passes through
  double min_scale = 1.0;          // floor; below 2^-127 the inverse would be infinite
  bool is_dynamic = true;          // false: init_scale for good; overflowed steps are still skipped
  bool allow_fp16_grads = false;   // unscale fp16 gradients, which torch.amp refuses
};

/// What torch.amp.GradScaler.state_dict() holds, key for key ("_growth_tracker" there).
struct GradScalerState {
  double scale;
  double growth_factor;
  double backoff_factor;
  int64_t growth_interval;
  int64_t growth_tracker;
};

/// torch.amp.GradScaler for C++: the same methods, state machine and errors.
///
///   scaler.scale(loss).backward();        // gradients are now multiplied by the scale
///   scaler.unscale_(optimizer);           // optional: gradients are themselves again, to clip
///   them scaler.step(optimizer);               // skipped if any gradient is NaN or Inf
///   scaler.update();                      // halve after a skip; double after growth_interval good
///   steps
///
/// The scale lives on the device (Micikevicius et al., Mixed Precision Training, ICLR 2018,
/// section 3.2). With an optimizer that is a ScaledStep no step waits for the device; with any
/// other, step() reads found_inf once. Optimizers are known by their address: one must outlive the
/// step that it takes part in. Not thread-safe.
class GradScaler {
 public:
  /// Throws Error for a factor, a floor or an initial scale that cannot work.
  explicit GradScaler(at::Device device, GradScalerOptions options = {});

  /// outputs * scale, fp32 for 16-bit outputs (65536 does not fit into fp16). Any shape; the graph
  /// is kept. May be called often between two updates (accumulation, several losses). Disabled:
  /// outputs itself.
  at::Tensor scale(const at::Tensor& outputs);
  std::vector<at::Tensor> scale(const std::vector<at::Tensor>& outputs);

  /// Divides the optimizer's gradients by the scale, in place, and notes on the device whether any
  /// is not finite. At most once an update per optimizer. Does not synchronise. Throws for fp16
  /// gradients unless they are allowed.
  void unscale_(torch::optim::Optimizer& optimizer);

  /// optimizer.step(), unless a gradient is not finite; unscales first if unscale_ was not called.
  void step(torch::optim::Optimizer& optimizer);

  /// Sets the scale for the next step from what the steps since the last update found, or to
  /// new_scale.
  void update(std::optional<double> new_scale = std::nullopt);

  /// Whether the optimizer's gradients of this step hold a NaN or an Inf. Between unscale_ or step
  /// and update; one read from the device.
  bool found_inf(const torch::optim::Optimizer& optimizer) const;

  /// The current scale; 1 when disabled. One read from the device.
  double get_scale() const;
  int64_t get_growth_tracker() const;
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

  /// Take it after update(). None when disabled.
  std::optional<GradScalerState> state_dict() const;
  /// Throws for a state that cannot work; the scaler is then unchanged. No-op when disabled.
  void load_state_dict(const GradScalerState& state);

 private:
  enum class Stage { kReady, kUnscaled, kStepped };
  struct PerOptimizer {
    Stage stage = Stage::kReady;
    std::vector<at::Tensor> found_inf_per_device;
  };

  void init_scale_tensors();
  void check_scaled(const char* method) const;
  std::vector<at::Tensor> unscale_grads(torch::optim::Optimizer& optimizer,
                                        const at::Tensor& inv_scale, bool allow_fp16) const;
  at::Tensor combined_found_inf(const PerOptimizer& state) const;
  void step_on_device(torch::optim::Optimizer& optimizer, PerOptimizer& state);
  void adjust_scale(const at::Tensor& found_inf);
  void step_on_host(torch::optim::Optimizer& optimizer, PerOptimizer& state);

  at::Device device_;
  GradScalerOptions options_;
  int64_t init_growth_tracker_ = 0;
  at::Tensor scale_;           // 0-dim fp32 on device_, made by the first scale()
  at::Tensor growth_tracker_;  // 0-dim int32
  std::unordered_map<const torch::optim::Optimizer*, PerOptimizer> per_optimizer_;
};

}  // namespace mezzo
