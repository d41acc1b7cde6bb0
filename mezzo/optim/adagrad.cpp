#include "mezzo/optim/adagrad.h"

#include <ATen/ops/_fused_adagrad.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>

namespace mezzo::optim {
namespace {

AdagradOptions checked(AdagradOptions options) {
  const auto check = [](const char* key, double value) {
    detail::check_not_negative("Adagrad", key, value);
  };
  check("lr", options.lr());
  check("lr_decay", options.lr_decay());
  check("weight_decay", options.weight_decay());
  check("initial_accumulator_value", options.initial_accumulator_value());
  check("eps", options.eps());
  return options;
}

}  // namespace

void AdagradState::complete(const at::Tensor& param, const AdagradOptions& options) {
  if (!step.defined()) {
    const auto kind = param.options().requires_grad(false);
    step = at::zeros({}, kind.dtype(at::kFloat));
    sum = at::full_like(param, options.initial_accumulator_value(), kind);
  }
}

void AdagradState::serialize(torch::serialize::InputArchive& archive) {
  detail::read_tensor(archive, "step", step);
  detail::read_tensor(archive, "sum", sum);
}

void AdagradState::serialize(torch::serialize::OutputArchive& archive) const {
  detail::write_tensor(archive, "step", step);
  detail::write_tensor(archive, "sum", sum);
}

void AdagradState::check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const {
  detail::check_read_step(place, step, param);
  detail::check_read(place, "sum", sum, param);
}

Adagrad::Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                 AdagradOptions defaults)
    : FusedOptimizer("Adagrad", param_groups, checked(std::move(defaults))) {
  for (const auto& group : param_groups_) {
    checked(static_cast<const AdagradOptions&>(group.options()));
  }
}

Adagrad::Adagrad(std::vector<at::Tensor> params, AdagradOptions defaults)
    : Adagrad({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

void Adagrad::update(const Bucket<AdagradState>& bucket, const AdagradOptions& options,
                     const ScaleOfStep& scale) {
  const auto steps = bucket.all(&AdagradState::step);
  detail::count_steps(steps);
  at::_fused_adagrad_(bucket.params, bucket.grads, bucket.all(&AdagradState::sum), steps,
                      options.lr(), options.lr_decay(), options.weight_decay(), options.eps(),
                      /*maximize=*/false, scale.grad_scale, scale.found_inf);
  detail::take_back_skipped(steps, scale.found_inf);
}

}  // namespace mezzo::optim
