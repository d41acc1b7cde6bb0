#pragma once

#include <cstdint>

#include "mezzo/models/model_config.h"

namespace mezzo::models {

/// A Llama with all that sets it apart: heads that share keys, an MLP of its own width; `is_tied`
/// or with a head of its own.
inline ModelConfig tiny_llama_config(bool is_tied = true) {
  return {.family = Family::kLlama,
          .layers = 2,
          .heads = 4,
          .width = 32,
          .context = 16,
          .vocab_size = 64,
          .bias = false,
          .kv_heads = 2,
          .mlp_width = 48,
          .tied = is_tied};
}

/// The roundings between the tokens and a logit: each sum as long as its terms are many, each norm
/// one sum and the steps to its scale, each rotation a sum of two, 8 for the steps of a sigmoid or
/// a softmax's exponential, and a product by x and one by the gate. The rotary table is the same
/// numbers in every dtype.
inline int64_t llama_forward_length(const ModelConfig& config, int64_t T) {
  const int64_t C = config.width, D = C / config.heads;
  const int64_t norm = C + 5;
  const int64_t attention = C + 2 + D + (T + 8) + T + C;
  const int64_t mlp = C + 8 + 2 + config.mlp_width;
  return config.layers * (2 * norm + attention + mlp + 2) + norm + C;
}

/// And to the loss: the sum over the vocabulary, its logarithm, the mean over all positions.
inline int64_t llama_loss_length(const ModelConfig& config, int64_t B, int64_t T) {
  return llama_forward_length(config, T) + config.vocab_size + 8 + B * T;
}

/// And to a gradient: backward is two products where forward is one, and a sum over positions.
inline int64_t llama_grad_length(const ModelConfig& config, int64_t B, int64_t T) {
  return llama_loss_length(config, B, T) + 2 * llama_forward_length(config, T) + B * T;
}

}  // namespace mezzo::models
