#include "mezzo/optim/sgd.h"

#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "mezzo/base/check.h"

namespace mezzo::optim {
namespace {

SGDOptions checked(SGDOptions options) {
  detail::check_not_negative("SGD", "lr", options.lr());
  detail::check_not_negative("SGD", "momentum", options.momentum());
  detail::check_not_negative("SGD", "weight_decay", options.weight_decay());
  MEZZO_CHECK_USAGE(!options.nesterov() || (options.momentum() > 0 && options.dampening() == 0),
                    "SGD", "nesterov needs momentum > 0 and dampening = 0, but they are {} and {}",
                    options.momentum(), options.dampening());
  return options;
}

void call_kernel(const std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
                 const std::vector<at::Tensor>& buffers, const SGDOptions& options, bool is_first,
                 const ScaleOfStep& scale) {
  at::_fused_sgd_(params, grads, buffers, options.weight_decay(), options.momentum(), options.lr(),
                  options.dampening(), options.nesterov(), /*maximize=*/false, is_first,
                  scale.grad_scale, scale.found_inf);
}

}  // namespace

void SGDState::complete(const at::Tensor& param, const SGDOptions& options) {
  if (options.momentum() != 0 && !momentum_buffer.defined()) {
    const auto kind = param.options().requires_grad(false);
    step = at::zeros({}, kind.dtype(at::kFloat));
    momentum_buffer = at::zeros_like(param, kind);
  }
}

void SGDState::serialize(torch::serialize::InputArchive& archive) {
  detail::read_tensor(archive, "step", step);
  detail::read_tensor(archive, "momentum_buffer", momentum_buffer);
}

void SGDState::serialize(torch::serialize::OutputArchive& archive) const {
  detail::write_tensor(archive, "step", step);
  detail::write_tensor(archive, "momentum_buffer", momentum_buffer);
}

void SGDState::check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const {
  if (!step.defined() && !momentum_buffer.defined()) return;  // saved without momentum
  detail::check_read_step(place, step, param);
  detail::check_read(place, "momentum_buffer", momentum_buffer, param);
}

SGD::SGD(const std::vector<torch::optim::OptimizerParamGroup>& param_groups, SGDOptions defaults)
    : FusedOptimizer("SGD", param_groups, checked(std::move(defaults))) {
  for (const auto& group : param_groups_) {
    checked(static_cast<const SGDOptions&>(group.options()));
  }
}

SGD::SGD(std::vector<at::Tensor> params, SGDOptions defaults)
    : SGD({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

void SGD::update(const Bucket<SGDState>& bucket, const SGDOptions& options,
                 const ScaleOfStep& scale) {
  if (options.momentum() == 0) {
    call_kernel(bucket.params, bucket.grads, {}, options, /*is_first=*/false, scale);
    return;
  }
  const auto steps = bucket.all(&SGDState::step);
  if (options.dampening() == 0) {
    // From a buffer of zeros the first step needs no case of its own.
    call_kernel(bucket.params, bucket.grads, bucket.all(&SGDState::momentum_buffer), options,
                /*is_first=*/false, scale);
  } else {
    update_damped(bucket, options, scale);
  }
  detail::count_steps(steps);
  detail::take_back_skipped(steps, scale.found_inf);
}

// The first step is not damped, and after skipped ones only the device knows which is the first:
// each parameter gets both kernels, one of which is told to skip.
void SGD::update_damped(const Bucket<SGDState>& bucket, const SGDOptions& options,
                        const ScaleOfStep& scale) {
  for (size_t i = 0; i < bucket.params.size(); ++i) {
    const SGDState& state = *bucket.states[i];
    const auto is_later = state.step.gt(0).to(at::kFloat);
    for (const bool is_first : {true, false}) {
      auto skips = is_first ? is_later : 1 - is_later;
      if (scale.found_inf) {
        skips = at::maximum(skips, *scale.found_inf);
      }
      call_kernel({bucket.params[i]}, {bucket.grads[i]}, {state.momentum_buffer}, options, is_first,
                  {.grad_scale = scale.grad_scale, .found_inf = skips, .lr = {}});
    }
  }
}

}  // namespace mezzo::optim
