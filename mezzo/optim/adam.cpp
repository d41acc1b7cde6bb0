#include "mezzo/optim/adam.h"

#include <ATen/ops/_fused_adam.h>

namespace mezzo::optim {

Adam::Adam(const std::vector<torch::optim::OptimizerParamGroup>& param_groups, AdamOptions defaults)
    : FusedOptimizer("Adam", param_groups, detail::checked_adam("Adam", std::move(defaults))) {
  for (const auto& group : param_groups_) {
    detail::checked_adam("Adam", static_cast<const AdamOptions&>(group.options()));
  }
}

Adam::Adam(std::vector<at::Tensor> params, AdamOptions defaults)
    : Adam({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

void Adam::update(const Bucket<AdamState>& bucket, const AdamOptions& options,
                  const ScaleOfStep& scale) {
  const auto kernel = [](const auto&... args) { at::_fused_adam_(args...); };
  detail::update_adam(kernel, bucket, options, scale);
}

}  // namespace mezzo::optim
