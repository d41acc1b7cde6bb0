#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mezzo/models/hf_parts.h"

/// GPT-2's part of hf_checkpoint.h.
namespace mezzo::models::hf_gpt2 {

// Note [Hugging Face's GPT-2 and ours]
// They compute the same function of the same parameters under the same names. Three things differ:
// their linear layers (Conv1D) keep weights as [in, out], where ours are [out, in]; their names
// begin with "transformer." where the model was saved with its head; and config.json can ask for
// variants that ours does not have, which are refused here rather than computed wrongly.

ModelConfig from_config(const hf::Json& json, const std::string& where);
hf::Json to_config(const ModelConfig& config, std::optional<int64_t> end_of_text);

/// Masks that older files hold are left out.
hf::Tensors from_weights(hf::Tensors tensors, const ModelConfig& config, const std::string& where);
/// A model without biases gets zeros, which compute the same.
hf::Tensors to_weights(const hf::Tensors& weights, const ModelConfig& config);

}  // namespace mezzo::models::hf_gpt2
