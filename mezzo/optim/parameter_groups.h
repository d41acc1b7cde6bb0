#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/optim/adamw.h>
#include <torch/ordered_dict.h>

namespace mezzo::optim {

/// What torch::nn::Module::named_parameters() returns.
using NamedParameters = torch::OrderedDict<std::string, at::Tensor>;

namespace detail {

/// The parameters that need a gradient, in two groups: those of 2 dimensions and more, and the
/// rest.
std::vector<torch::optim::OptimizerParamGroup> matrices_and_vectors(
    const NamedParameters& named, std::unique_ptr<torch::optim::OptimizerOptions> for_matrices,
    std::unique_ptr<torch::optim::OptimizerOptions> for_vectors);

}  // namespace detail

/// Two groups with `options`: first the matrices and embeddings (dim >= 2), decayed as the options
/// say, then biases and norms, never decayed. Order within a group is that of `named`; parameters
/// that need no gradient are in neither; one that has several names, of a module that is shared, is
/// taken once. Options: those of any optimizer that has weight_decay.
template <class Options = torch::optim::AdamWOptions>
std::vector<torch::optim::OptimizerParamGroup> decay_groups(const NamedParameters& named,
                                                            const Options& options) {
  auto undecayed = std::make_unique<Options>(options);
  undecayed->weight_decay(0.0);
  return detail::matrices_and_vectors(named, std::make_unique<Options>(options),
                                      std::move(undecayed));
}

/// Sets the learning rate of every group.
void set_lr(torch::optim::Optimizer& optimizer, double lr);

}  // namespace mezzo::optim
