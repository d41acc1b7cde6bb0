#include "mezzo/optim/parameter_groups.h"

#include <memory>
#include <utility>

namespace mezzo::optim {

std::vector<torch::optim::OptimizerParamGroup> decay_groups(
    const NamedParameters& named, const torch::optim::AdamWOptions& options) {
  std::vector<at::Tensor> matrices, vectors;
  for (const auto& parameter : named) {
    if (parameter.value().requires_grad()) {
      (parameter.value().dim() >= 2 ? matrices : vectors).push_back(parameter.value());
    }
  }
  auto decayed = std::make_unique<torch::optim::AdamWOptions>(options);
  auto undecayed = std::make_unique<torch::optim::AdamWOptions>(options);
  undecayed->weight_decay(0.0);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::move(matrices), std::move(decayed));
  groups.emplace_back(std::move(vectors), std::move(undecayed));
  return groups;
}

void set_lr(torch::optim::Optimizer& optimizer, double lr) {
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(lr);
  }
}

}  // namespace mezzo::optim
