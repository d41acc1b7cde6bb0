#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mezzo/models/hf_parts.h"

/// Llama's part of hf_checkpoint.h.
namespace mezzo::models::hf_llama {

// Note [Hugging Face's Llama and ours]
// They compute the same function of the same numbers, with the same halves of a head as rotary
// pairs. Three things differ: queries, keys and values are three tensors there and the rows of one
// here, as are the gate and up projections of the MLP; their names begin with "model.", but for the
// head's; and config.json can ask for variants that ours does not have, which are refused here
// rather than computed wrongly.

ModelConfig from_config(const hf::Json& json, const std::string& where);
hf::Json to_config(const ModelConfig& config, std::optional<int64_t> end_of_text);

/// Rotary frequencies that older files hold are left out.
hf::Tensors from_weights(hf::Tensors tensors, const ModelConfig& config, const std::string& where);
hf::Tensors to_weights(const hf::Tensors& weights, const ModelConfig& config);

}  // namespace mezzo::models::hf_llama
