#pragma once

#include <string>

#include <ATen/core/grad_mode.h>

#include "mezzo/base/safetensors.h"
#include "mezzo/models/gpt2.h"

namespace mezzo::models {

/// The model of golden/gpt2_tiny.safetensors (tests/reference/make_gpt2_goldens.py).
inline ModelConfig tiny_config() {
  return {.layers = 2, .heads = 2, .width = 32, .context = 16, .vocab_size = 64};
}

inline const SafeTensors& tiny_golden() {
  static const SafeTensors golden = load_safetensors(MEZZO_TEST_DATA "/gpt2_tiny.safetensors");
  return golden;
}

inline at::Tensor tiny_golden(const std::string& name) { return tiny_golden().tensors.at(name); }

/// With the golden file's weights, in `dtype`.
inline GPT2 tiny_gpt2(at::ScalarType dtype) {
  GPT2 model(tiny_config());
  model->to(dtype);
  const at::NoGradGuard no_grad;
  for (auto& parameter : model->named_parameters()) {
    parameter.value().copy_(tiny_golden("weight." + parameter.key()));
  }
  return model;
}

/// The roundings between the tokens and a logit: each sum as long as its terms are many, each norm
/// two sums, and 8 for the steps of a GELU or a softmax's exponential.
inline int64_t forward_length(const ModelConfig& config, int64_t T) {
  const int64_t C = config.width, D = C / config.heads;
  const int64_t norm = 2 * C + 4;
  const int64_t attention = C + D + (T + 8) + T + C;
  const int64_t mlp = C + 8 + 4 * C;
  return 1 + config.layers * (2 * norm + attention + mlp + 2) + norm + C;
}

/// And to the loss: the sum over the vocabulary, its logarithm, the mean over all positions.
inline int64_t loss_length(const ModelConfig& config, int64_t B, int64_t T) {
  return forward_length(config, T) + config.vocab_size + 8 + B * T;
}

/// And to a gradient: backward is two products where forward is one, and a sum over positions.
inline int64_t grad_length(const ModelConfig& config, int64_t B, int64_t T) {
  return loss_length(config, B, T) + 2 * forward_length(config, T) + B * T;
}

}  // namespace mezzo::models
