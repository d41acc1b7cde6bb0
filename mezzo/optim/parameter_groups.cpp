#include "mezzo/optim/parameter_groups.h"

#include <utility>

namespace mezzo::optim {

std::vector<torch::optim::OptimizerParamGroup> detail::matrices_and_vectors(
    const NamedParameters& named, std::unique_ptr<torch::optim::OptimizerOptions> for_matrices,
    std::unique_ptr<torch::optim::OptimizerOptions> for_vectors) {
  std::vector<at::Tensor> matrices, vectors;
  for (const auto& parameter : named) {
    if (parameter.value().requires_grad()) {
      (parameter.value().dim() >= 2 ? matrices : vectors).push_back(parameter.value());
    }
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
