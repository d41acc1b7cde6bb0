#include "mezzo/optim/adamw.h"

#include <tuple>
#include <utility>

#include <fmt/ranges.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "mezzo/base/check.h"

namespace mezzo::optim {
namespace {

/// The tensors of one fused call: same device, same dtype.
struct Bucket {
  std::vector<at::Tensor> params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps;
};
using Place = std::pair<std::string, at::ScalarType>;  // device, dtype
using Buckets = std::map<Place, Bucket>;

void check_options(const AdamWOptions& options) {
  const auto [beta1, beta2] = options.betas();
  const auto check_not_negative = [](const char* key, double value) {
    MEZZO_CHECK_USAGE(value >= 0, "AdamW", "{} must be >= 0, but is {}", key, value);
  };
  const auto check_beta = [](const char* key, double value) {
    MEZZO_CHECK_USAGE(value >= 0 && value < 1, "AdamW", "{} must be in [0, 1), but is {}", key,
                      value);
  };
  check_not_negative("lr", options.lr());
  check_not_negative("eps", options.eps());
  check_not_negative("weight_decay", options.weight_decay());
  check_beta("betas[0]", beta1);
  check_beta("betas[1]", beta2);
}

AdamWOptions checked(AdamWOptions options) {
  check_options(options);
  return options;
}

void check_scalar(const char* name, const at::Tensor& value, at::Device device) {
  MEZZO_CHECK(value.defined(), "AdamW.scaled_step", "{} must be defined", name);
  MEZZO_CHECK(value.numel() == 1 && value.scalar_type() == at::kFloat && value.device() == device,
              "AdamW.scaled_step",
              "{} must be one fp32 number on {} as the parameters, but is {} x {} on {}", name,
              device.str(), value.numel(), c10::toString(value.scalar_type()),
              value.device().str());
}

/// The gradient, laid out as the parameter: the fused kernel walks both by memory position.
const at::Tensor& aligned_grad(const at::Tensor& param) {
  MEZZO_CHECK(param.is_non_overlapping_and_dense(), "AdamW",
              "a parameter must be dense in memory, but has strides [{}] for shape [{}]. Hint: "
              "make it contiguous()",
              fmt::join(param.strides(), ", "), fmt::join(param.sizes(), ", "));
  at::Tensor& grad = param.mutable_grad();
  MEZZO_CHECK(!grad.is_sparse(), "AdamW",
              "gradients must be dense, but one of shape [{}] is sparse",
              fmt::join(grad.sizes(), ", "));
  if (grad.strides() != param.strides()) {
    grad = at::empty_like(param, grad.options()).copy_(grad);
  }
  return grad;
}

void add_to(Bucket& bucket, const at::Tensor& param, const AdamWState& state, bool amsgrad) {
  bucket.params.push_back(param);
  bucket.grads.push_back(aligned_grad(param));
  bucket.exp_avgs.push_back(state.exp_avg);
  bucket.exp_avg_sqs.push_back(state.exp_avg_sq);
  if (amsgrad) {
    bucket.max_exp_avg_sqs.push_back(state.max_exp_avg_sq);
  }
  bucket.steps.push_back(state.step);
}

void update_bucket(Bucket& bucket, const AdamWOptions& options,
                   const std::optional<at::Tensor>& grad_scale,
                   const std::optional<at::Tensor>& found_inf) {
  const auto [beta1, beta2] = options.betas();
  at::_foreach_add_(bucket.steps, 1);
  at::_fused_adamw_(bucket.params, bucket.grads, bucket.exp_avgs, bucket.exp_avg_sqs,
                    bucket.max_exp_avg_sqs, bucket.steps, options.lr(), beta1, beta2,
                    options.weight_decay(), options.eps(), options.amsgrad(), /*maximize=*/false,
                    grad_scale, found_inf);
  if (found_inf) {
    // A skipped step does not count; on the device, since only the device knows.
    at::_foreach_sub_(bucket.steps, std::vector<at::Tensor>(bucket.steps.size(), *found_inf));
  }
}

}  // namespace

AdamW::AdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
             AdamWOptions defaults)
    : Optimizer(param_groups, std::make_unique<AdamWOptions>(checked(std::move(defaults)))) {
  for (const auto& group : param_groups_) {
    check_options(static_cast<const AdamWOptions&>(group.options()));
  }
}

AdamW::AdamW(std::vector<at::Tensor> params, AdamWOptions defaults)
    : AdamW({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

at::Tensor AdamW::step(LossClosure closure) {
  at::Tensor loss;
  if (closure) {
    const at::AutoGradMode enable_grad(true);
    loss = closure();
  }
  update(std::nullopt, std::nullopt);
  return loss;
}

void AdamW::scaled_step(const std::optional<at::Tensor>& grad_scale, const at::Tensor& found_inf) {
  for (const auto& group : param_groups_) {
    for (const at::Tensor& param : group.params()) {
      check_scalar("found_inf", found_inf, param.device());
      if (grad_scale) {
        check_scalar("grad_scale", *grad_scale, param.device());
      }
    }
  }
  // The kernel skips at exactly 1, and the step count takes back what it is given.
  const auto is_skipped = found_inf.reshape({}).ne(0).to(at::kFloat);
  update(grad_scale ? std::optional(grad_scale->reshape({})) : std::nullopt, is_skipped);
}

void AdamW::update(const std::optional<at::Tensor>& grad_scale,
                   const std::optional<at::Tensor>& found_inf) {
  const at::NoGradGuard no_grad;
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const AdamWOptions&>(group.options());
    Buckets buckets;
    for (const at::Tensor& param : group.params()) {
      if (param.grad().defined()) {
        auto& bucket = buckets[{param.device().str(), param.scalar_type()}];
        add_to(bucket, param, state_of(param, options.amsgrad()), options.amsgrad());
      }
    }
    for (auto& [place, bucket] : buckets) {
      update_bucket(bucket, options, grad_scale, found_inf);
    }
  }
}

AdamWState& AdamW::state_of(const at::Tensor& param, bool amsgrad) {
  auto& slot = state_[param.unsafeGetTensorImpl()];
  if (!slot) {
    auto fresh = std::make_unique<AdamWState>();
    fresh->step = at::zeros({}, param.options().dtype(at::kFloat).requires_grad(false));
    fresh->exp_avg = at::zeros_like(param, param.options().requires_grad(false));
    fresh->exp_avg_sq = at::zeros_like(fresh->exp_avg);
    slot = std::move(fresh);
  }
  auto& state = static_cast<AdamWState&>(*slot);
  if (amsgrad && !state.max_exp_avg_sq.defined()) {
    state.max_exp_avg_sq = at::zeros_like(state.exp_avg_sq);
  }
  return state;
}

}  // namespace mezzo::optim
