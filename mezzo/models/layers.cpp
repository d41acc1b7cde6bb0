#include "mezzo/models/layers.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>

#include "mezzo/kernels/fp8/linear.h"

namespace mezzo::models {

LinearImpl::LinearImpl(int64_t in, int64_t out, bool has_bias) {
  weight = register_parameter("weight", at::empty({out, in}));
  if (has_bias) {
    bias = register_parameter("bias", at::empty({out}));
  }
}

at::Tensor LinearImpl::forward(const at::Tensor& x) {
  if (is_fp8_for(x)) return kernels::fp8_linear(x, weight, optional(bias), fp8);
  return at::linear(x, weight, bias);
}

bool LinearImpl::is_fp8_for(const at::Tensor& x) const {
  return fp8 != nullptr && kernels::fp8_refusal(x, weight).empty();
}

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

RMSNormImpl::RMSNormImpl(int64_t width, double epsilon) : eps(epsilon) {
  weight = register_parameter("weight", at::empty({width}));
}

at::Tensor RMSNormImpl::forward(const at::Tensor& x) {
  return at::rms_norm(x, weight.sizes(), weight, eps);
}

}  // namespace mezzo::models
