#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "mezzo/models/layers.h"

namespace mezzo::models {

/// How a block runs: as fused ops (mezzo/kernels/fused_linear/) or as libtorch's, one by one.
struct BlockOps {
  bool is_fused = true;
  bool recomputes = true;  // normalised rows and activations; fused only
};

/// The residual stream between blocks, and what the last block leaves to be added to it: the norm
/// that reads the sum makes it in the same pass. Both [B, T, C].
struct Residual {
  at::Tensor x;
  at::Tensor branch;  // undefined: nothing

  at::Tensor sum() const { return branch.defined() ? x + branch : x; }
};

/// A block of any family: x + attention(norm(x)), then that + mlp(norm(that)).
class DecoderBlock : public torch::nn::Module {
 public:
  virtual Residual forward(const Residual& in) = 0;
  /// Its linear layers, by their names in it.
  virtual std::vector<std::pair<std::string, Linear>> linears() const = 0;

  BlockOps ops;
};

}  // namespace mezzo::models
