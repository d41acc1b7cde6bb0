#pragma once

#include <string>
#include <vector>

#include <torch/optim/adamw.h>
#include <torch/ordered_dict.h>

namespace mezzo::optim {

/// What torch::nn::Module::named_parameters() returns.
using NamedParameters = torch::OrderedDict<std::string, at::Tensor>;

/// Two groups with `options`: first the matrices and embeddings (dim >= 2), decayed as the options
/// say, then biases and norms, never decayed. Order within a group is that of `named`; parameters
/// that need no gradient are in neither.
std::vector<torch::optim::OptimizerParamGroup> decay_groups(
    const NamedParameters& named, const torch::optim::AdamWOptions& options);

/// Sets the learning rate of every group.
void set_lr(torch::optim::Optimizer& optimizer, double lr);

}  // namespace mezzo::optim
