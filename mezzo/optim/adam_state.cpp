#include "mezzo/optim/adam_state.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace mezzo::optim {

void AdamState::complete(const at::Tensor& param, bool amsgrad) {
  if (!step.defined()) {
    const auto options = param.options().requires_grad(false);
    step = at::zeros({}, options.dtype(at::kFloat));
    exp_avg = at::zeros_like(param, options);
    exp_avg_sq = at::zeros_like(param, options);
  }
  if (amsgrad && !max_exp_avg_sq.defined()) {
    max_exp_avg_sq = at::zeros_like(exp_avg_sq);
  }
}

void AdamState::serialize(torch::serialize::InputArchive& archive) {
  detail::read_tensor(archive, "step", step);
  detail::read_tensor(archive, "exp_avg", exp_avg);
  detail::read_tensor(archive, "exp_avg_sq", exp_avg_sq);
  detail::read_tensor(archive, "max_exp_avg_sq", max_exp_avg_sq);
}

void AdamState::serialize(torch::serialize::OutputArchive& archive) const {
  detail::write_tensor(archive, "step", step);
  detail::write_tensor(archive, "exp_avg", exp_avg);
  detail::write_tensor(archive, "exp_avg_sq", exp_avg_sq);
  detail::write_tensor(archive, "max_exp_avg_sq", max_exp_avg_sq);
}

void AdamState::check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const {
  detail::check_read_step(place, step, param);
  detail::check_read(place, "exp_avg", exp_avg, param);
  detail::check_read(place, "exp_avg_sq", exp_avg_sq, param);
  if (max_exp_avg_sq.defined()) detail::check_read(place, "max_exp_avg_sq", max_exp_avg_sq, param);
}

}  // namespace mezzo::optim
