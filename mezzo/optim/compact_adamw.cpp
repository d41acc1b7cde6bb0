#include "mezzo/optim/compact_adamw.h"

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/optim/adam_state.h"

namespace mezzo::optim {
namespace {

CompactAdamWOptions checked(CompactAdamWOptions options) {
  const int64_t bits = options.moment_bits();
  MEZZO_CHECK_USAGE(bits == 8 || bits == 32, "CompactAdamW",
                    "moment_bits must be 8 or 32, but is {}", bits);
  return detail::checked_adam("CompactAdamW", std::move(options));
}

CompactAdamWOptions checked_8bit(CompactAdamWOptions options) {
  MEZZO_CHECK_USAGE(options.moment_bits() == 8, "AdamW8bit",
                    "moment_bits must be 8, but is {}. Hint: use AdamW8bitOptions",
                    options.moment_bits());
  return options;
}

kernels::AdamWParam kernel_param(const at::Tensor& param, const at::Tensor& grad,
                                 const CompactAdamWState& state) {
  return {.weight = param,
          .remainder = state.remainder,
          .grad = grad,
          .exp_avg = state.exp_avg,
          .exp_avg_sq = state.exp_avg_sq,
          .exp_avg_scale = state.exp_avg_scale,
          .exp_avg_sq_scale = state.exp_avg_sq_scale,
          .coefficients = {}};
}

kernels::AdamWSettings settings_of(const CompactAdamWOptions& options) {
  return {.lr = options.lr(),
          .beta1 = std::get<0>(options.betas()),
          .beta2 = std::get<1>(options.betas()),
          .eps = options.eps(),
          .weight_decay = options.weight_decay()};
}

/// On a GPU that has a kernel: nobody waits for it. Only there is it called, and so linked.
[[maybe_unused]] void update_on_device(const Bucket<CompactAdamWState>& bucket,
                                       const CompactAdamWOptions& options,
                                       const ScaleOfStep& scale) {
  std::vector<kernels::AdamWParam> params;
  params.reserve(bucket.params.size());
  for (size_t i = 0; i < bucket.params.size(); ++i)
    params.push_back(kernel_param(bucket.params[i], bucket.grads[i], *bucket.states[i]));
  const auto steps = bucket.all(&CompactAdamWState::step);
  detail::count_steps(steps);
  kernels::cuda::adamw_on_device_(params, steps,
                                  {.settings = settings_of(options),
                                   .lr = scale.lr,
                                   .grad_scale = scale.grad_scale.value_or(at::Tensor()),
                                   .found_inf = scale.found_inf.value_or(at::Tensor())});
  detail::take_back_skipped(steps, scale.found_inf);
}

}  // namespace

CompactAdamW::CompactAdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                           CompactAdamWOptions defaults)
    : FusedOptimizer("CompactAdamW", param_groups, checked(std::move(defaults))) {
  for (const auto& group : param_groups_) {
    const auto& options = checked(static_cast<const CompactAdamWOptions&>(group.options()));
    for (const at::Tensor& param : group.params()) state_of(param, options);
  }
}

CompactAdamW::CompactAdamW(std::vector<at::Tensor> params, CompactAdamWOptions defaults)
    : CompactAdamW({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

void CompactAdamW::update(const Bucket<CompactAdamWState>& bucket,
                          const CompactAdamWOptions& options, const ScaleOfStep& scale) {
  if constexpr (kernels::kHasCuda) {
    if (kernels::cuda::takes_adamw(bucket.params.front()))
      return update_on_device(bucket, options, scale);
  }
  if (scale.found_inf && scale.found_inf->item<float>() != 0.0f) return;
  const float grad_scale = scale.grad_scale ? scale.grad_scale->item<float>() : 1.0f;
  kernels::AdamWSettings settings = settings_of(options);
  if (scale.lr.defined()) settings.lr = scale.lr.item<float>();
  std::vector<kernels::AdamWParam> params;
  params.reserve(bucket.params.size());
  for (size_t i = 0; i < bucket.params.size(); ++i) {
    const CompactAdamWState& state = *bucket.states[i];
    const auto step = static_cast<uint32_t>(state.step.item<float>()) + 1;
    params.push_back(kernel_param(bucket.params[i], bucket.grads[i], state));
    params.back().coefficients = kernels::adamw_coefficients(settings, step, grad_scale);
  }
  kernels::adamw_(params);
  detail::count_steps(bucket.all(&CompactAdamWState::step));
}

void CompactAdamW::check_grad_dtype(const at::Tensor& param) const {
  const at::ScalarType dtype = param.grad().scalar_type();
  MEZZO_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf, "CompactAdamW",
              "a gradient must be fp32, bf16 or fp16, but one of shape [{}] is {}",
              fmt::join(param.sizes(), ", "), c10::toString(dtype));
}

// A split weight is half of a number, and its remainder the other.
void CompactAdamW::check_loaded(const detail::PlaceOfParam& place, const CompactAdamWState* read,
                                const at::Tensor& param) const {
  FusedOptimizer::check_loaded(place, read, param);
  const CompactAdamWState* const own = find_state(param);
  const auto is_split = [](const CompactAdamWState* state) {
    return state != nullptr && state->remainder.defined();
  };
  MEZZO_CHECK(is_split(read) == is_split(own), "CompactAdamW.load",
              "parameter {} of group {} is {}split here, but was {}split when it was saved. Hint: "
              "load it with the split_weights that it was saved with",
              place.index, place.group, is_split(own) ? "" : "not ", is_split(read) ? "" : "not ");
}

void CompactAdamW::step_one(const at::Tensor& param) {
  for (auto& group : param_groups_) {
    for (const at::Tensor& own : group.params()) {
      if (own.unsafeGetTensorImpl() == param.unsafeGetTensorImpl()) {
        step_alone(own, static_cast<const CompactAdamWOptions&>(group.options()));
        return;
      }
    }
  }
  MEZZO_CHECK(false, "CompactAdamW.step_one",
              "the parameter must be of this optimizer, but is not. Hint: is it a parameter of "
              "another model?");
}

std::vector<at::Tensor> CompactAdamW::state_tensors() const {
  std::vector<at::Tensor> all;
  for (const auto& group : param_groups_) {
    for (const at::Tensor& param : group.params()) {
      if (const CompactAdamWState* state = find_state(param)) {
        const auto own = state->tensors();
        all.insert(all.end(), own.begin(), own.end());
      }
    }
  }
  return all;
}

AdamW8bitOptions::AdamW8bitOptions(double lr) : CompactAdamWOptions(lr) {
  moment_bits(8);
  round_weights(true);
}

AdamW8bit::AdamW8bit(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                     CompactAdamWOptions defaults)
    : CompactAdamW(param_groups, checked_8bit(std::move(defaults))) {}

AdamW8bit::AdamW8bit(std::vector<at::Tensor> params, CompactAdamWOptions defaults)
    : CompactAdamW(std::move(params), checked_8bit(std::move(defaults))) {}

}  // namespace mezzo::optim
