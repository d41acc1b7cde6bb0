#include "mezzo/optim/adamw.h"

#include <ATen/ops/_fused_adamw.h>

namespace mezzo::optim {

AdamW::AdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
             AdamWOptions defaults)
    : FusedOptimizer("AdamW", param_groups, detail::checked_adam("AdamW", std::move(defaults))) {
  for (const auto& group : param_groups_) {
    detail::checked_adam("AdamW", static_cast<const AdamWOptions&>(group.options()));
  }
}

AdamW::AdamW(std::vector<at::Tensor> params, AdamWOptions defaults)
    : AdamW({torch::optim::OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

void AdamW::update(const Bucket<AdamState>& bucket, const AdamWOptions& options,
                   const ScaleOfStep& scale) {
  const auto kernel = [](const auto&... args) { at::_fused_adamw_(args...); };
  detail::update_adam(kernel, bucket, options, scale);
}

}  // namespace mezzo::optim
