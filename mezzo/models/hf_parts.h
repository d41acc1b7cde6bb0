#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <ATen/core/Tensor.h>

#include "mezzo/models/model_config.h"

/// What hf_gpt2.cpp and hf_llama.cpp share. `where` is the file, which errors name.
namespace mezzo::models::hf {

using Json = nlohmann::ordered_json;
using Tensors = std::map<std::string, at::Tensor>;
using Shape = std::vector<int64_t>;

// ---- config.json. A key is a path: "vocab_size", or "rope_scaling/factor".

/// The object that the text holds. Throws Error if it holds none.
Json parsed(std::string_view text, const std::string& where);

/// What is there; null if nothing is.
const Json* found_at(const Json& config, const std::string& key);

/// A size of the model, from 1 to 2^31 - 1. Throws Error if it is not there or no such number.
int64_t size_of(const Json& config, const std::string& key, const std::string& where);

/// A finite number above 0. Throws Error for another value, and for
/// none without `if_absent`.
double number_of(const Json& config, const std::string& key, std::optional<double> if_absent,
                 const std::string& where);

/// Throws Error unless `value`, of `key`, is a multiple of `divisor`, of `of`.
void check_multiple(std::string_view key, int64_t value, std::string_view of, int64_t divisor,
                    const std::string& where);

/// What a key must be where it is there; where it is not, Hugging Face takes the first value.
struct Variant {
  std::string key;
  std::vector<Json> accepted;
};

/// Throws UsageError for a variant of the family that Mezzo does not compute.
void check_variant(const Json& config, const Variant& variant, Family family,
                   const std::string& where);

// ---- Weights

/// The head's name in a file, which never has a prefix.
inline constexpr const char* kHead = "lm_head.weight";

/// A file's tensors under their names without `prefix`, which they may lack, and without those that
/// `is_no_weight` knows. Throws Error for one that is there with and without it.
Tensors without_prefix(Tensors tensors, std::string_view prefix,
                       bool (*is_no_weight)(const std::string& name), const std::string& where);

/// The tensor in fp32, which is in `tensors` no more. Throws Error if it was not there, or with
/// another shape, or of integers.
at::Tensor taken(Tensors& tensors, const std::string& name, const Shape& shape,
                 const std::string& where);

/// Takes the head out of `tensors`, if it is there. Throws Error unless it equals the embedding of
/// that name, for the reason `why`.
void take_tied_head(Tensors& tensors, const std::string& embedding_name,
                    const at::Tensor& embedding, std::string_view why, const std::string& where);

/// Throws Error for a tensor that is left when all of the model's are taken.
void check_is_empty(const Tensors& rest, Family family, const std::string& where);

/// A parameter that is to be written. Throws Error if it is not there or of another shape.
at::Tensor parameter(const Tensors& weights, const std::string& name, const Shape& shape);

}  // namespace mezzo::models::hf
