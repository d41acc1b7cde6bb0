#include "mezzo/amp/gradient_facts.h"

#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mezzo/base/float_format.h"

namespace mezzo {
namespace {

using Parameters = std::unordered_set<const c10::TensorImpl*>;

Parameters parameters_of(const torch::optim::Optimizer& optimizer) {
  Parameters parameters;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params())
      parameters.insert(parameter.unsafeGetTensorImpl());
  }
  return parameters;
}

}  // namespace

std::vector<NamedParameter> named_parameters(const torch::optim::Optimizer& optimizer,
                                             const std::vector<NamedParameter>& known) {
  std::vector<NamedParameter> named;
  Parameters unnamed = parameters_of(optimizer);
  for (const NamedParameter& item : known) {
    if (unnamed.erase(item.second.unsafeGetTensorImpl()) > 0) named.push_back(item);
  }
  const auto& groups = optimizer.param_groups();
  for (size_t group = 0; group < groups.size(); ++group) {
    const std::vector<at::Tensor>& parameters = groups[group].params();
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!unnamed.contains(parameters[i].unsafeGetTensorImpl())) continue;
      named.emplace_back(fmt::format("parameter {} of group {}, shape {}", i, group,
                                     fmt::join(parameters[i].sizes(), " x ")),
                         parameters[i]);
    }
  }
  return named;
}

kernels::TensorStats read_gradient(const at::Tensor& grad) {
  const at::Tensor values = grad.is_sparse() ? grad._values() : grad;
  return kernels::check_and_unscale_({values}, 1.0f, float_format(at::kHalf).smallest_normal)
      .front();
}

std::vector<GradientFacts> read_gradients(const std::vector<NamedParameter>& parameters) {
  std::vector<GradientFacts> gradients;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined()) gradients.push_back({name, read_gradient(parameter.grad())});
  }
  return gradients;
}

}  // namespace mezzo
