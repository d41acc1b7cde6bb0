#include "mezzo/models/layers.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>

namespace mezzo::models {

LinearImpl::LinearImpl(int64_t in, int64_t out, bool has_bias) {
  weight = register_parameter("weight", at::empty({out, in}));
  if (has_bias) {
    bias = register_parameter("bias", at::empty({out}));
  }
}

at::Tensor LinearImpl::forward(const at::Tensor& x) { return at::linear(x, weight, bias); }

EmbeddingImpl::EmbeddingImpl(int64_t rows, int64_t width) {
  weight = register_parameter("weight", at::empty({rows, width}));
}

at::Tensor EmbeddingImpl::forward(const at::Tensor& ids) { return at::embedding(weight, ids); }

LayerNormImpl::LayerNormImpl(int64_t width, bool has_bias) {
  weight = register_parameter("weight", at::empty({width}));
  if (has_bias) {
    bias = register_parameter("bias", at::empty({width}));
  }
}

at::Tensor LayerNormImpl::forward(const at::Tensor& x) {
  return at::layer_norm(x, weight.sizes(), weight, bias, kEps);
}

}  // namespace mezzo::models
