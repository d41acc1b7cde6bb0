#pragma once

#include <filesystem>
#include <optional>

#include "mezzo/data/tokenizer.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/checked_folder.h"  // TensorMap

namespace mezzo::train {

// A GPT-2 or a Llama in a folder as Hugging Face's libraries read and write it: config.json; the
// weights in model.safetensors, or in the files that model.safetensors.index.json names;
// tokenizer.json.

/// Whether the folder says that it is one: by its config.json.
bool is_hf_folder(const std::filesystem::path& folder);

/// The model's shape, without dropout. Throws as models::from_hf_config does, and UsageError if
/// there is no file of weights that load_hf_weights reads.
models::ModelConfig hf_shape(const std::filesystem::path& folder);

/// The weights by parameter name, in fp32. Throws Error, naming file and tensor, as
/// models::from_hf_weights and load_safetensors do.
TensorMap load_hf_weights(const std::filesystem::path& folder);

/// Makes `folder`, which must not exist or be empty, with a model's weights (by parameter name) in
/// fp32, and the tokenizer, if there is one, whose end-of-text token config.json then names. A
/// crash at any instant leaves no half folder. Throws Error, naming the path and the reason.
void save_hf_folder(const std::filesystem::path& folder, const models::ModelConfig& config,
                    const TensorMap& weights, const std::optional<data::Tokenizer>& tokenizer);

}  // namespace mezzo::train
