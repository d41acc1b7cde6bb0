#pragma once

#include <tuple>

#include "mezzo/models/model_config.h"

namespace mezzo::models {

/// All of a model's shape, to be compared.
inline auto fields(const ModelConfig& c) {
  const auto scaling = c.rope.scaling.value_or(kernels::Llama3Scaling{.original_context = 0});
  return std::make_tuple(c.family, c.layers, c.heads, c.width, c.context, c.vocab_size, c.dropout,
                         c.bias, c.kv_heads, c.mlp_width, c.tied, c.norm_eps, c.rope.base,
                         c.rope.scaling.has_value(), scaling.factor, scaling.low_freq_factor,
                         scaling.high_freq_factor, scaling.original_context);
}

}  // namespace mezzo::models
