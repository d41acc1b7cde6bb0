#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "mezzo/models/model_config.h"

namespace mezzo::models {

// A model as Hugging Face's libraries keep it: a config.json and named tensors. It is read as what
// the model_type of its config.json says, and written as what its family is. How each family's
// differs from ours: hf_gpt2.h, hf_llama.h.

/// The shape that the text of a config.json describes, without dropout, which is no part of it.
/// Throws UsageError for another sort of model or a variant that Mezzo does not compute, Error for
/// what is no config.json; both name the file (`where`), the key, its value and what is accepted.
ModelConfig from_hf_config(std::string_view json, const std::string& where);

/// The text of a config.json for a model of this shape. `end_of_text` is the token that begins and
/// ends a text, if there is one.
std::string to_hf_config(const ModelConfig& config, std::optional<int64_t> end_of_text);

/// A model's parameters, in fp32 and by name, from the tensors of a file of this shape (of
/// from_hf_config). What older files hold beside weights, and a tied head that equals the token
/// embedding, are left out. Throws Error, naming the file (`where`) and the tensor, for one that is
/// missing or of another shape or type, for one that the model has no place for, and for a tied
/// head that differs.
std::map<std::string, at::Tensor> from_hf_weights(std::map<std::string, at::Tensor> tensors,
                                                  const ModelConfig& config,
                                                  const std::string& where);

/// The tensors of a file, in fp32, from a model's parameters. Throws Error for a parameter that is
/// missing or of another shape.
std::map<std::string, at::Tensor> to_hf_weights(const std::map<std::string, at::Tensor>& weights,
                                                const ModelConfig& config);

}  // namespace mezzo::models
