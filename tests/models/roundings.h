#pragma once

#include <cstdint>

#include "mezzo/models/model_config.h"

namespace mezzo::models {

// How many roundings stand one after another, for tolerance_for(). Each sum is as long as its terms
// are many, and 8 are for the steps of a GELU, a sigmoid or a softmax's exponential.

/// Of a GPT-2, between the tokens and a logit; each norm has two sums.
inline int64_t gpt2_forward_length(const ModelConfig& config, int64_t T) {
  const int64_t C = config.width, D = C / config.heads;
  const int64_t norm = 2 * C + 4;
  const int64_t attention = C + D + (T + 8) + T + C;
  const int64_t mlp = C + 8 + 4 * C;
  return 1 + config.layers * (2 * norm + attention + mlp + 2) + norm + C;
}

/// Of a Llama; each norm has one sum and the steps to its scale, each rotation a sum of two, and
/// the MLP a product by x and one by the gate. The rotary table is the same numbers in every dtype.
inline int64_t llama_forward_length(const ModelConfig& config, int64_t T) {
  const int64_t C = config.width, D = C / config.heads;
  const int64_t norm = C + 5;
  const int64_t attention = C + 2 + D + (T + 8) + T + C;
  const int64_t mlp = C + 8 + 2 + config.mlp_width;
  return config.layers * (2 * norm + attention + mlp + 2) + norm + C;
}

inline int64_t forward_length(const ModelConfig& config, int64_t T) {
  return config.family == Family::kGPT2 ? gpt2_forward_length(config, T)
                                        : llama_forward_length(config, T);
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
