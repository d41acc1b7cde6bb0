#include "mezzo/optim/compact_adamw_state.h"

#include <fmt/ranges.h>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/serialize.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/adamw/split_weights.h"

namespace mezzo::optim {
namespace {

// Below it the scales and the error buy nothing (Dettmers et al., arXiv 2110.02861, and
// bitsandbytes' min_8bit_size).
constexpr int64_t kLeast8Bit = 4096;

bool is_16bit(const at::Tensor& param) { return at::isReducedFloatingType(param.scalar_type()); }

void check_weight(const at::Tensor& param, bool is_split, bool may_round) {
  const char* const dtype = c10::toString(param.scalar_type());
  MEZZO_CHECK(param.scalar_type() == at::kFloat || is_16bit(param), "CompactAdamW",
              "a parameter must be fp32, bf16 or fp16, but one of shape [{}] is {}",
              fmt::join(param.sizes(), ", "), dtype);
  MEZZO_CHECK(!is_split || param.scalar_type() == at::kBFloat16, "CompactAdamW",
              "a split parameter must stay bf16, but one of shape [{}] is {} now. Hint: "
              "master_weights() gives its fp32 numbers",
              fmt::join(param.sizes(), ", "), dtype);
  MEZZO_CHECK(is_split || !is_16bit(param) || may_round, "CompactAdamW",
              "a 16-bit parameter must have been split, but one of shape [{}] was {} before the "
              "optimizer saw it. Hint: hand it over in fp32 with split_weights(true), or lose "
              "small updates with round_weights(true)",
              fmt::join(param.sizes(), ", "), dtype);
}

}  // namespace

CompactAdamWOptions::CompactAdamWOptions(double lr) : lr_(lr) {}

void CompactAdamWOptions::serialize(torch::serialize::OutputArchive& archive) const {
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(lr);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(betas);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(eps);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(weight_decay);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(moment_bits);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(split_weights);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(round_weights);
}

void CompactAdamWOptions::serialize(torch::serialize::InputArchive& archive) {
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, lr);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(Betas, betas);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, eps);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, weight_decay);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(int64_t, moment_bits);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, split_weights);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, round_weights);
}

std::vector<at::Tensor> CompactAdamWState::tensors() const {
  std::vector<at::Tensor> all;
  for (const at::Tensor& tensor :
       {step, exp_avg, exp_avg_sq, exp_avg_scale, exp_avg_sq_scale, remainder}) {
    if (tensor.defined()) all.push_back(tensor);
  }
  return all;
}

void CompactAdamWState::split(const at::Tensor& param) {
  auto halves = kernels::split(param);
  param.set_data(halves.high);
  remainder = std::move(halves.remainder);
}

void CompactAdamWState::complete(const at::Tensor& param, const CompactAdamWOptions& options) {
  if (options.split_weights() && !remainder.defined() && param.dim() >= 2 &&
      param.scalar_type() == at::kFloat) {
    split(param);
  }
  check_weight(param, remainder.defined(), options.round_weights());
  if (!step.defined()) {
    step = at::zeros({}, param.options().requires_grad(false).dtype(at::kFloat));
    make_moments(param,
                 options.moment_bits() == 8 && param.dim() >= 2 && param.numel() >= kLeast8Bit);
  }
}

void CompactAdamWState::make_moments(const at::Tensor& param, bool is_8bit) {
  const auto options = param.options().requires_grad(false);
  exp_avg = at::zeros_like(param, options.dtype(is_8bit ? at::kChar : at::kFloat));
  exp_avg_sq = at::zeros_like(param, options.dtype(is_8bit ? at::kByte : at::kFloat));
  if (is_8bit) {
    const int64_t blocks = kernels::moment_blocks(param.numel());
    exp_avg_scale = at::zeros({blocks}, options.dtype(at::kFloat));
    exp_avg_sq_scale = at::zeros({blocks}, options.dtype(at::kFloat));
  }
}

void CompactAdamWState::serialize(torch::serialize::InputArchive& archive) {
  detail::read_tensor(archive, "step", step);
  detail::read_tensor(archive, "exp_avg", exp_avg);
  detail::read_tensor(archive, "exp_avg_sq", exp_avg_sq);
  detail::read_tensor(archive, "exp_avg_scale", exp_avg_scale);
  detail::read_tensor(archive, "exp_avg_sq_scale", exp_avg_sq_scale);
  detail::read_tensor(archive, "remainder", remainder);
}

void CompactAdamWState::serialize(torch::serialize::OutputArchive& archive) const {
  detail::write_tensor(archive, "step", step);
  detail::write_tensor(archive, "exp_avg", exp_avg);
  detail::write_tensor(archive, "exp_avg_sq", exp_avg_sq);
  detail::write_tensor(archive, "exp_avg_scale", exp_avg_scale);
  detail::write_tensor(archive, "exp_avg_sq_scale", exp_avg_sq_scale);
  detail::write_tensor(archive, "remainder", remainder);
}

void CompactAdamWState::check_read(const detail::PlaceOfParam& place,
                                   const at::Tensor& param) const {
  CompactAdamWState like;
  like.make_moments(param, exp_avg.defined() && exp_avg.scalar_type() == at::kChar);
  detail::check_read_step(place, step, param);
  detail::check_read(place, "exp_avg", exp_avg, like.exp_avg);
  detail::check_read(place, "exp_avg_sq", exp_avg_sq, like.exp_avg_sq);
  if (like.exp_avg_scale.defined()) {
    detail::check_read(place, "exp_avg_scale", exp_avg_scale, like.exp_avg_scale);
    detail::check_read(place, "exp_avg_sq_scale", exp_avg_sq_scale, like.exp_avg_sq_scale);
  }
  if (remainder.defined()) {
    detail::check_read(place, "remainder", remainder, at::empty_like(param, at::kShort));
  }
}

}  // namespace mezzo::optim
