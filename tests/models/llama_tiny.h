#pragma once

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

}  // namespace mezzo::models
