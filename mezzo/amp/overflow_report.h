#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace mezzo {

using NamedParameter = std::pair<std::string, at::Tensor>;

/// All parameters of the optimizer: by the name that `known` has for one, else as "parameter 3 of
/// group 0, shape 4 x 5".
std::vector<NamedParameter> named_parameters(torch::optim::Optimizer& optimizer,
                                             const std::vector<NamedParameter>& known);

/// The parameters whose gradients have the most non-finite elements, at most five, the worst first:
/// "h.0.attn.weight (3 of 20 elements), wte.weight (1 of 64 elements)". Empty if all gradients are
/// finite or gone. Reads every gradient on the host: for the moment before giving up.
std::string describe_overflow(const std::vector<NamedParameter>& parameters);

}  // namespace mezzo
