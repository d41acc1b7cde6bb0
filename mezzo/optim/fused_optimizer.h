#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/serialize.h>

#include "mezzo/base/scaled_step.h"

namespace mezzo::optim {

/// The tensors of one fused call, all on one device and of one dtype.
template <class State>
struct Bucket {
  std::vector<at::Tensor> params;  ///< with a gradient
  std::vector<at::Tensor> grads;   ///< laid out as the parameters
  std::vector<State*> states;      ///< complete

  /// The tensor `member` of each state.
  std::vector<at::Tensor> all(at::Tensor State::*member) const {
    std::vector<at::Tensor> tensors;
    tensors.reserve(states.size());
    for (const State* state : states) {
      tensors.push_back(state->*member);
    }
    return tensors;
  }
};

/// What a fused kernel is told on the device. found_inf is exactly 0 or 1 here; see ScaledStep.
struct ScaleOfStep {
  std::optional<at::Tensor> grad_scale;  ///< to divide the gradients by
  std::optional<at::Tensor> found_inf;   ///< 1: the step is skipped
  at::Tensor lr;                         ///< instead of the options' rate; undefined: the options'
};

namespace detail {

/// Throws UsageError unless a group's options are the optimizer's own.
void check_options(const char* optimizer, bool are_own);
/// Throws Error for a parameter of a dtype that no fused kernel takes. `group`: its number.
void check_dtypes(const char* optimizer, size_t group, const std::vector<at::Tensor>& params);
/// Throws Error for a parameter in the new group that is there already, or in it twice.
void check_differ(const char* optimizer,
                  const std::vector<torch::optim::OptimizerParamGroup>& groups,
                  const torch::optim::OptimizerParamGroup& added);
/// The gradient, laid out as the parameter: a fused kernel walks both by memory position.
const at::Tensor& aligned_grad(const char* optimizer, const at::Tensor& param);
/// Throws Error for a gradient of another dtype than its parameter's.
void check_same_dtype(const char* optimizer, const at::Tensor& param);
/// Throws Error for what is not one fp32 number.
ScaleOfStep scale_of_step(const char* optimizer, const std::optional<at::Tensor>& grad_scale,
                          const at::Tensor& found_inf);
ScaleOfStep scale_on(at::Device device, const ScaleOfStep& scale);
void check_not_negative(const char* optimizer, const char* key, double value);
void check_fraction(const char* optimizer, const char* key, double value);
/// Adds 1 to each step count; then, after the kernel, takes it back where found_inf is 1: on the
/// device, since only the device knows.
void count_steps(const std::vector<at::Tensor>& steps);
void take_back_skipped(const std::vector<at::Tensor>& steps,
                       const std::optional<at::Tensor>& found_inf);
/// read(), with libtorch's errors as Error.
void read_archive(const char* optimizer, const std::function<void()>& read);
/// An undefined tensor is no key of the archive, as in libtorch's own optimizers.
void write_tensor(torch::serialize::OutputArchive& archive, const char* key,
                  const at::Tensor& tensor);
void read_tensor(torch::serialize::InputArchive& archive, const char* key, at::Tensor& tensor);

/// Where a state was read for: in errors.
struct PlaceOfParam {
  const char* optimizer;
  size_t group, index;
};
/// Throws Error unless the tensor of a state that was read has shape, strides, dtype and device of
/// `like`. A fused kernel would not look: it would read past the end.
void check_read(const PlaceOfParam& place, const char* key, const at::Tensor& tensor,
                const at::Tensor& like);
/// The same for a step count: 0-dim fp32 on the parameter's device.
void check_read_step(const PlaceOfParam& place, const at::Tensor& step, const at::Tensor& param);

}  // namespace detail

/// An optimizer over one of ATen's fused kernels: what AdamW, Adam, SGD and Adagrad share.
///
/// A parameter without a gradient is left alone. Parameters are dense fp64, fp32, bf16 and fp16
/// tensors of any mix of devices and dtypes, each given once; the state has the parameter's dtype.
/// No step waits for the device. A step that throws, for a gradient that it cannot take, has
/// changed nothing. Options, learning rate schedulers, parameter groups, torch::save and
/// torch::load are libtorch's.
template <class Options, class State>
class FusedOptimizer : public torch::optim::Optimizer, public ScaledStep {
 public:
  /// libtorch's, which is not virtual. Throws Error for a parameter that would be stepped twice,
  /// for one that is not fp64, fp32, bf16 or fp16, and for options of another optimizer.
  void add_param_group(const torch::optim::OptimizerParamGroup& group) {
    detail::check_options(
        name_, !group.has_options() || dynamic_cast<const Options*>(&group.options()) != nullptr);
    detail::check_dtypes(name_, param_groups_.size(), group.params());
    detail::check_differ(name_, param_groups_, group);
    Optimizer::add_param_group(group);
  }

  /// One step; returns the closure's loss, or an undefined tensor without a closure.
  at::Tensor step(LossClosure closure = nullptr) override {
    at::Tensor loss;
    if (closure) {
      const at::AutoGradMode enable_grad(true);
      loss = closure();
    }
    step_all({});
    return loss;
  }

  /// ScaledStep's, see there: divides the gradients by grad_scale, and changes no bit of
  /// parameters and state if found_inf is not zero. A step that is taken leaves the gradients
  /// unscaled.
  void scaled_step(const std::optional<at::Tensor>& grad_scale,
                   const at::Tensor& found_inf) override {
    step_all(detail::scale_of_step(name_, grad_scale, found_inf));
  }

  /// torch::save's: the state in the order of the parameters.
  void save(torch::serialize::OutputArchive& archive) const override {
    torch::optim::serialize<State, Options>(archive, *this);
  }
  /// torch::load's, of what save() wrote for parameters of the same shapes in the same order; what
  /// is remembered of a parameter that had no state then is forgotten. Throws Error, and changes
  /// nothing, for what was written for others.
  void load(torch::serialize::InputArchive& archive) override {
    Loaded loaded(param_groups_, defaults_->clone());
    detail::read_archive(name_, [&] { torch::optim::serialize<State, Options>(archive, loaded); });
    for (size_t group = 0; group < param_groups_.size(); ++group) {
      const std::vector<at::Tensor>& params = param_groups_[group].params();
      for (size_t i = 0; i < params.size(); ++i)
        check_loaded({name_, group, i}, find_state(loaded.state(), params[i]), params[i]);
    }
    for (size_t group = 0; group < param_groups_.size(); ++group) {
      param_groups_[group].set_options(loaded.param_groups()[group].options().clone());
    }
    state_ = std::move(loaded.state());
  }

 protected:
  /// For those whose kernel can: from now on every group's learning rate is what this tensor holds
  /// when a step runs on the device, where a CUDA graph can be given another without being captured
  /// anew; for an undefined one it is the options' again.
  ///   lr  0-dim fp32, on the parameters' device; shared, not copied
  void set_lr_tensor(at::Tensor lr) { lr_ = std::move(lr); }

  /// name: for errors.
  FusedOptimizer(const char* name, const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 Options defaults)
      : Optimizer(std::vector<torch::optim::OptimizerParamGroup>(),
                  std::make_unique<Options>(std::move(defaults))),
        name_(name) {
    for (const auto& group : groups) add_param_group(group);
  }

  /// What is remembered of a parameter, made where it is not there yet.
  State& state_of(const at::Tensor& param, const Options& options) {
    auto& slot = state_[param.unsafeGetTensorImpl()];
    if (!slot) {
      slot = std::make_unique<State>();
    }
    auto& state = static_cast<State&>(*slot);
    const at::NoGradGuard no_grad;
    state.complete(param, options);
    return state;
  }

  /// What is remembered of a parameter now; null: nothing.
  const State* find_state(const at::Tensor& param) const { return find_state(state_, param); }

  /// Throws Error for a state that was read and does not fit the parameter; null: none was.
  virtual void check_loaded(const detail::PlaceOfParam& place, const State* read,
                            const at::Tensor& param) const {
    if (read != nullptr) read->check_read(place, param);
  }

  /// A step of this parameter alone, if it has a gradient.
  void step_alone(const at::Tensor& param, const Options& options) {
    if (!param.grad().defined()) return;
    const at::NoGradGuard no_grad;
    Bucket<State> bucket;
    add(bucket, param, options);
    step_bucket(bucket, options,
                {.grad_scale = std::nullopt, .found_inf = std::nullopt, .lr = lr_});
  }

 private:
  /// By device and dtype.
  using Buckets = std::map<std::pair<std::string, at::ScalarType>, Bucket<State>>;

  /// What an archive holds for this optimizer's parameters.
  struct Loaded final : torch::optim::Optimizer {
    using Optimizer::Optimizer;
    at::Tensor step(LossClosure) override { return {}; }
  };

  using States = ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>>;

  static const State* find_state(const States& states, const at::Tensor& param) {
    const auto found = states.find(param.unsafeGetTensorImpl());
    return found == states.end() ? nullptr : static_cast<const State*>(found->second.get());
  }

  virtual void update(const Bucket<State>& bucket, const Options& options,
                      const ScaleOfStep& scale) = 0;
  /// Throws Error for a gradient of a dtype that update() cannot take.
  virtual void check_grad_dtype(const at::Tensor& param) const {
    detail::check_same_dtype(name_, param);
  }

  void add(Bucket<State>& bucket, const at::Tensor& param, const Options& options) {
    check_grad_dtype(param);
    bucket.params.push_back(param);
    bucket.grads.push_back(detail::aligned_grad(name_, param));
    bucket.states.push_back(&state_of(param, options));
  }

  Buckets buckets_of(const torch::optim::OptimizerParamGroup& group) {
    Buckets buckets;
    for (const at::Tensor& param : group.params()) {
      if (!param.grad().defined()) continue;
      add(buckets[{param.device().str(), param.scalar_type()}], param,
          static_cast<const Options&>(group.options()));
    }
    return buckets;
  }

  void step_all(ScaleOfStep scale) {
    const at::NoGradGuard no_grad;
    scale.lr = lr_;
    // Of all groups before the first update: a gradient that is refused leaves no step half taken.
    std::vector<Buckets> groups;
    for (const auto& group : param_groups_) groups.push_back(buckets_of(group));
    for (size_t i = 0; i < groups.size(); ++i) {
      const auto& options = static_cast<const Options&>(param_groups_[i].options());
      for (const auto& [place, bucket] : groups[i]) {
        step_bucket(bucket, options, detail::scale_on(bucket.params.front().device(), scale));
      }
    }
  }

  // ATen's fused kernels write without a new version of what they write to. Without one, autocast
  // would go on with its cast of the old weights, and autograd would differentiate by the new ones
  // what was computed with the old.
  void step_bucket(const Bucket<State>& bucket, const Options& options, const ScaleOfStep& scale) {
    update(bucket, options, scale);
    for (const at::Tensor& param : bucket.params) param.unsafeGetTensorImpl()->bump_version();
  }

  const char* name_;
  at::Tensor lr_;  // undefined: the options' rate
};

}  // namespace mezzo::optim
