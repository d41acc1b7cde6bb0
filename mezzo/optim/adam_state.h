#pragma once

#include <torch/optim/optimizer.h>

#include "mezzo/optim/fused_optimizer.h"

namespace mezzo::optim {

/// What Adam and AdamW remember of one parameter.
struct AdamState : public torch::optim::OptimizerCloneableParamState<AdamState> {
  at::Tensor step;            ///< 0-dim fp32 on the parameter's device: counts steps not skipped
  at::Tensor exp_avg;         ///< first moment, shape and dtype of the parameter
  at::Tensor exp_avg_sq;      ///< second moment, likewise
  at::Tensor max_exp_avg_sq;  ///< its running maximum; only with amsgrad

  /// Makes, as zeros, what is not there yet.
  template <class Options>
  void complete(const at::Tensor& param, const Options& options) {
    complete(param, options.amsgrad());
  }
  /// torch::load's and torch::save's.
  /// @{
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  /// @}
  /// Throws Error for what was read for a parameter unlike this one.
  void check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const;

 private:
  void complete(const at::Tensor& param, bool amsgrad);
};

namespace detail {

/// lr, eps, weight_decay >= 0 and both betas in [0, 1), or UsageError; options of Adam or AdamW.
template <class Options>
Options checked_adam(const char* optimizer, Options options) {
  check_not_negative(optimizer, "lr", options.lr());
  check_not_negative(optimizer, "eps", options.eps());
  check_not_negative(optimizer, "weight_decay", options.weight_decay());
  check_fraction(optimizer, "betas[0]", std::get<0>(options.betas()));
  check_fraction(optimizer, "betas[1]", std::get<1>(options.betas()));
  return options;
}

/// One step by at::_fused_adam_ or at::_fused_adamw_, which differ in what weight decay means.
template <class Kernel, class Options>
void update_adam(const Kernel& kernel, const Bucket<AdamState>& bucket, const Options& options,
                 const ScaleOfStep& scale) {
  const auto [beta1, beta2] = options.betas();
  const auto steps = bucket.all(&AdamState::step);
  const auto maxima =
      options.amsgrad() ? bucket.all(&AdamState::max_exp_avg_sq) : std::vector<at::Tensor>();
  count_steps(steps);
  const auto run = [&, beta1 = beta1, beta2 = beta2](const auto& lr) {
    kernel(bucket.params, bucket.grads, bucket.all(&AdamState::exp_avg),
           bucket.all(&AdamState::exp_avg_sq), maxima, steps, lr, beta1, beta2,
           options.weight_decay(), options.eps(), options.amsgrad(), /*maximize=*/false,
           scale.grad_scale, scale.found_inf);
  };
  if (scale.lr.defined()) {
    run(scale.lr);
  } else {
    run(options.lr());
  }
  take_back_skipped(steps, scale.found_inf);
}

}  // namespace detail
}  // namespace mezzo::optim
