#include "mezzo/optim/parameter_groups.h"

#include <unordered_set>
#include <utility>

namespace mezzo::optim {

std::vector<torch::optim::OptimizerParamGroup> detail::matrices_and_vectors(
    const NamedParameters& named, std::unique_ptr<torch::optim::OptimizerOptions> for_matrices,
    std::unique_ptr<torch::optim::OptimizerOptions> for_vectors) {
  std::vector<at::Tensor> matrices, vectors;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (const auto& item : named) {
    const at::Tensor& param = item.value();
    if (!param.requires_grad() || !seen.insert(param.unsafeGetTensorImpl()).second) continue;
    (param.dim() >= 2 ? matrices : vectors).push_back(param);
  }
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::move(matrices), std::move(for_matrices));
  groups.emplace_back(std::move(vectors), std::move(for_vectors));
  return groups;
}

void set_lr(torch::optim::Optimizer& optimizer, double lr) {
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(lr);
  }
}

}  // namespace mezzo::optim
