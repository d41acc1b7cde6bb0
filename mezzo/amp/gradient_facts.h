#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

#include "mezzo/kernels/grad_check/grad_check.h"

namespace mezzo {

using NamedParameter = std::pair<std::string, at::Tensor>;

/// What a parameter's gradient held while it was still scaled. Subnormals are those of fp16, the
/// type that losses are scaled for: magnitudes below 2^-14.
struct GradientFacts {
  std::string name;
  kernels::TensorStats facts;
};

/// A parameter whose gradient was unscaled.
struct UnscaledGradient {
  at::Tensor parameter;
  std::optional<kernels::TensorStats> facts;  ///< from before; none on another device than a CPU
};

/// All parameters of the optimizer. First those that are `known`, by their names and in that order;
/// then the others, as "parameter 3 of group 0, shape 4 x 5".
std::vector<NamedParameter> named_parameters(const torch::optim::Optimizer& optimizer,
                                             const std::vector<NamedParameter>& known);

/// The facts of one gradient (of a sparse one's values) as it stands. Waits for its device.
kernels::TensorStats read_gradient(const at::Tensor& grad);

/// Those of each parameter that has a gradient, in order. Reads all of them.
std::vector<GradientFacts> read_gradients(const std::vector<NamedParameter>& parameters);

}  // namespace mezzo
