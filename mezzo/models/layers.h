#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "mezzo/kernels/fp8/recipe.h"

namespace mezzo::models {

/// A parameter that a layer may be without, as ops take it.
inline std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// Note [Layers without an initialisation of their own]
// torch::nn::Linear and Embedding fill their weights from the global generator when constructed.
// A model that initialises itself from a seed would pay for random numbers that it throws away
// (seconds at gpt2-xl) and would move a generator that belongs to its user. These layers hold
// parameters that are uninitialised until the model fills them; their names, shapes and maths are
// torch::nn's.

/// y = x weight^T + bias. Parameters: weight [out, in], bias [out].
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, bool has_bias);
  /// x [..., in] -> [..., out]
  at::Tensor forward(const at::Tensor& x);
  /// Whether this x is multiplied in FP8: that is wished for, and possible.
  bool is_fp8_for(const at::Tensor& x) const;

  at::Tensor weight, bias;                  // bias is undefined without one
  std::shared_ptr<kernels::Fp8Recipe> fp8;  // null: products in FP8 are not wished for
};
TORCH_MODULE(Linear);

/// Rows of a table by index. Parameter: weight [rows, width].
class EmbeddingImpl : public torch::nn::Module {
 public:
  EmbeddingImpl(int64_t rows, int64_t width);
  /// ids [...] int64, each in [0, rows) -> [..., width]
  at::Tensor forward(const at::Tensor& ids);

  at::Tensor weight;
};
TORCH_MODULE(Embedding);

/// Normalisation of the last dimension. Parameters: weight [width], bias [width].
class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t width, bool has_bias);
  static constexpr double kEps = 1e-5;

  /// x [..., width] -> [..., width]
  at::Tensor forward(const at::Tensor& x);

  at::Tensor weight, bias;  // bias is undefined without one
};
TORCH_MODULE(LayerNorm);

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension. Parameter: weight [width].
class RMSNormImpl : public torch::nn::Module {
 public:
  RMSNormImpl(int64_t width, double eps);

  /// x [..., width] -> [..., width]
  at::Tensor forward(const at::Tensor& x);

  at::Tensor weight;
  const double eps;
};
TORCH_MODULE(RMSNorm);

}  // namespace mezzo::models
