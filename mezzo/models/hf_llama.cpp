#include "mezzo/models/hf_llama.h"

#include <functional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <ATen/ops/cat.h>

#include "mezzo/base/check.h"

namespace mezzo::models::hf_llama {
namespace {

using hf::found_at;
using hf::Json;
using hf::number_of;
using hf::Shape;
using hf::size_of;
using hf::Tensors;
using hf::Variant;

constexpr std::string_view kPrefix = "model.";

// ---- config.json

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"hidden_act", {"silu", "swish"}},  // two names of one function
      {"attention_bias", {false}},
      {"mlp_bias", {false}},
      {"pretraining_tp", {1, nullptr}},
  };
  return all;
}

void check(const Json& json, const Variant& variant, const std::string& where) {
  hf::check_variant(json, variant, Family::kLlama, where);
}

// Null says the same as nothing.
bool is_given(const Json& json, const std::string& key) {
  const Json* found = found_at(json, key);
  return found != nullptr && !found->is_null();
}

// transformers 4 keeps the scaling in rope_scaling, beside rope_theta; transformers 5 keeps both in
// rope_parameters, and where there are both objects reads the older one.
std::string rope_section(const Json& json, const std::string& where) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!is_given(json, key)) continue;
    const Json& section = json.at(key);
    MEZZO_CHECK(section.is_object(), where, "{} must be null or an object, but is {}", key,
                section.dump());
    if (!section.empty()) return std::string(key) + "/";
  }
  return "";
}

kernels::Llama3Scaling llama3_scaling(const Json& json, const std::string& section,
                                      const std::string& where) {
  const kernels::Llama3Scaling scaling{
      .factor = number_of(json, section + "factor", std::nullopt, where),
      .low_freq_factor = number_of(json, section + "low_freq_factor", std::nullopt, where),
      .high_freq_factor = number_of(json, section + "high_freq_factor", std::nullopt, where),
      .original_context = size_of(json, section + "original_max_position_embeddings", where)};
  MEZZO_CHECK(scaling.high_freq_factor > scaling.low_freq_factor, where,
              "{}high_freq_factor must be above low_freq_factor, {}, but is {}", section,
              scaling.low_freq_factor, scaling.high_freq_factor);
  return scaling;
}

kernels::RopeOptions rope_of(const Json& json, const std::string& where) {
  const std::string section = rope_section(json, where);
  check(json, {"partial_rotary_factor", {1.0, nullptr}}, where);
  const double beside = number_of(json, "rope_theta", kernels::RopeOptions().base, where);
  if (section.empty()) return {.base = beside};
  check(json, {section + "partial_rotary_factor", {1.0, nullptr}}, where);
  const std::string type = section + (is_given(json, section + "rope_type") ? "rope_type" : "type");
  check(json, {type, {"default", "llama3"}}, where);
  kernels::RopeOptions rope{.base = number_of(json, section + "rope_theta", beside, where)};
  const Json* found = found_at(json, type);
  if (found != nullptr && *found == "llama3") rope.scaling = llama3_scaling(json, section, where);
  return rope;
}

bool is_tied(const Json& json, const std::string& where) {
  check(json, {"tie_word_embeddings", {false, true}}, where);
  const Json* found = found_at(json, "tie_word_embeddings");
  return found != nullptr && found->get<bool>();
}

void check_heads(const Json& json, const ModelConfig& config, const std::string& where) {
  hf::check_multiple("hidden_size", config.width, "num_attention_heads", config.heads, where);
  hf::check_multiple("num_attention_heads", config.heads, "num_key_value_heads", config.kv_heads,
                     where);
  const int64_t D = config.width / config.heads;
  check(json, {"head_dim", {nullptr, D}}, where);
  MEZZO_CHECK(D % 2 == 0, where,
              "hidden_size / num_attention_heads must be even, but is {} / {} = {}", config.width,
              config.heads, D);
}

Json rope_scaling(const kernels::RopeOptions& rope) {
  if (!rope.scaling) return nullptr;
  return {{"rope_type", "llama3"},
          {"factor", rope.scaling->factor},
          {"low_freq_factor", rope.scaling->low_freq_factor},
          {"high_freq_factor", rope.scaling->high_freq_factor},
          {"original_max_position_embeddings", rope.scaling->original_context}};
}

// ---- Weights

/// A tensor of the file, by our name, which is the file's without prefix.
struct Part {
  std::string name;
  Shape shape;
};

/// A parameter of the model, and the file's tensors that are its rows, in order.
using Visit = std::function<void(const std::string& name, const std::vector<Part>& parts)>;

// Not asked of a Llama, which would have to be made for it.
void for_each_parameter(const ModelConfig& config, const Visit& visit) {
  const int64_t C = config.width, F = config.mlp_width;
  const int64_t kv_rows = config.kv_heads * (C / config.heads);
  const auto same = [&](const std::string& name, const Shape& shape) {
    visit(name, {{name, shape}});
  };
  same("embed_tokens.weight", {config.vocab_size, C});
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("layers.{}.", i);
    const std::string attn = layer + "self_attn.", mlp = layer + "mlp.";
    same(layer + "input_layernorm.weight", {C});
    visit(attn + "qkv_proj.weight", {{attn + "q_proj.weight", {C, C}},
                                     {attn + "k_proj.weight", {kv_rows, C}},
                                     {attn + "v_proj.weight", {kv_rows, C}}});
    same(attn + "o_proj.weight", {C, C});
    same(layer + "post_attention_layernorm.weight", {C});
    visit(mlp + "gate_up_proj.weight",
          {{mlp + "gate_proj.weight", {F, C}}, {mlp + "up_proj.weight", {F, C}}});
    same(mlp + "down_proj.weight", {C, F});
  }
  same("norm.weight", {C});
  if (!config.tied) same(hf::kHead, {config.vocab_size, C});
}

// What angles are made of, which libraries before 2024 saved with the weights.
bool is_frequency(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

std::string name_in_file(const std::string& name) {
  return name == hf::kHead ? name : std::string(kPrefix) + name;
}

std::vector<int64_t> rows_of(const std::vector<Part>& parts) {
  std::vector<int64_t> rows;
  for (const Part& part : parts) rows.push_back(part.shape.front());
  return rows;
}

Shape joined_shape(const std::vector<Part>& parts) {
  Shape shape = parts.front().shape;
  shape.front() = 0;
  for (const int64_t rows : rows_of(parts)) shape.front() += rows;
  return shape;
}

}  // namespace

ModelConfig from_config(const Json& json, const std::string& where) {
  for (const Variant& variant : variants()) check(json, variant, where);
  ModelConfig config;
  config.family = Family::kLlama;
  config.layers = size_of(json, "num_hidden_layers", where);
  config.heads = size_of(json, "num_attention_heads", where);
  config.width = size_of(json, "hidden_size", where);
  config.context = size_of(json, "max_position_embeddings", where);
  config.vocab_size = size_of(json, "vocab_size", where);
  config.bias = false;
  config.kv_heads = is_given(json, "num_key_value_heads")
                        ? size_of(json, "num_key_value_heads", where)
                        : config.heads;
  config.mlp_width = size_of(json, "intermediate_size", where);
  config.tied = is_tied(json, where);
  config.norm_eps = number_of(json, "rms_norm_eps", 1e-6, where);
  config.rope = rope_of(json, where);
  check_heads(json, config, where);
  MEZZO_CHECK(config.norm_eps < 1, where, "rms_norm_eps must be below 1, but is {}",
              config.norm_eps);
  return config;
}

Json to_config(const ModelConfig& config, std::optional<int64_t> end_of_text) {
  const Json end = end_of_text ? Json(*end_of_text) : Json(nullptr);
  Json json = {{"architectures", Json::array({"LlamaForCausalLM"})},
               {"model_type", "llama"},
               {"num_hidden_layers", config.layers},
               {"num_attention_heads", config.heads},
               {"num_key_value_heads", config.kv_heads},
               {"head_dim", config.width / config.heads},
               {"hidden_size", config.width},
               {"intermediate_size", config.mlp_width},
               {"max_position_embeddings", config.context},
               {"vocab_size", config.vocab_size},
               {"tie_word_embeddings", config.tied},
               {"rms_norm_eps", config.norm_eps},
               // transformers 5 reads these two as well as rope_parameters, 4 these alone.
               {"rope_theta", config.rope.base},
               {"rope_scaling", rope_scaling(config.rope)},
               {"bos_token_id", end},
               {"eos_token_id", end},
               {"attention_dropout", config.dropout},
               {"torch_dtype", "float32"}};
  for (const Variant& variant : variants()) json[variant.key] = variant.accepted.front();
  return json;
}

Tensors from_weights(Tensors tensors, const ModelConfig& config, const std::string& where) {
  Tensors rest = hf::without_prefix(std::move(tensors), kPrefix, is_frequency, where);
  Tensors weights;
  for_each_parameter(config, [&](const auto& name, const auto& parts) {
    std::vector<at::Tensor> rows;
    for (const Part& part : parts) rows.push_back(hf::taken(rest, part.name, part.shape, where));
    weights[name] = (rows.size() == 1 ? rows.front() : at::cat(rows)).contiguous();
  });
  if (config.tied)
    hf::take_tied_head(rest, "embed_tokens.weight", weights.at("embed_tokens.weight"),
                       "as tie_word_embeddings is true", where);
  hf::check_is_empty(rest, config.family, where);
  return weights;
}

Tensors to_weights(const Tensors& weights, const ModelConfig& config) {
  Tensors tensors;
  for_each_parameter(config, [&](const auto& name, const auto& parts) {
    const at::Tensor joined = hf::parameter(weights, name, joined_shape(parts));
    const std::vector<at::Tensor> rows = joined.split_with_sizes(rows_of(parts));
    for (size_t i = 0; i < parts.size(); ++i)
      tensors[name_in_file(parts[i].name)] = rows[i].contiguous();
  });
  return tensors;
}

}  // namespace mezzo::models::hf_llama
