#include "mezzo/models/hf_gpt2.h"

#include <functional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <ATen/ops/zeros.h>

#include "mezzo/models/layers.h"

namespace mezzo::models::hf_gpt2 {
namespace {

using hf::Json;
using hf::Shape;
using hf::size_of;
using hf::Tensors;
using hf::Variant;

constexpr std::string_view kPrefix = "transformer.";

// ---- config.json

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"activation_function", {"gelu_new", "gelu_pytorch_tanh"}},  // two names of one function
      {"layer_norm_epsilon", {LayerNormImpl::kEps}},
      {"scale_attn_weights", {true}},
      {"scale_attn_by_inverse_layer_idx", {false}},
      {"add_cross_attention", {false}},
      {"tie_word_embeddings", {true}},
  };
  return all;
}

void check_variants(const Json& json, int64_t width, const std::string& where) {
  for (const Variant& variant : variants()) hf::check_variant(json, variant, Family::kGPT2, where);
  hf::check_variant(json, {"n_inner", {nullptr, 4 * width}}, Family::kGPT2, where);
}

// ---- Weights

enum class Layout { kSame, kTransposed };

/// A parameter of the model: its name and shape here, and how the file has it.
using Visit = std::function<void(const std::string& name, const Shape& shape, Layout layout)>;

// Not asked of a GPT2, which would have to be made for it.
void for_each_parameter(const ModelConfig& config, const Visit& visit) {
  const int64_t C = config.width;
  const auto norm = [&](const std::string& name) {
    visit(name + ".weight", {C}, Layout::kSame);
    visit(name + ".bias", {C}, Layout::kSame);
  };
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    visit(name + ".weight", {out, in}, Layout::kTransposed);
    visit(name + ".bias", {out}, Layout::kSame);
  };
  visit("wte.weight", {config.vocab_size, C}, Layout::kSame);
  visit("wpe.weight", {config.context, C}, Layout::kSame);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string block = fmt::format("h.{}.", i);
    norm(block + "ln_1");
    linear(block + "attn.c_attn", C, 3 * C);
    linear(block + "attn.c_proj", C, C);
    norm(block + "ln_2");
    linear(block + "mlp.c_fc", C, 4 * C);
    linear(block + "mlp.c_proj", 4 * C, C);
  }
  norm("ln_f");
}

// The causal mask, which libraries before 2023 saved with the weights.
bool is_mask(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
}

at::Tensor laid_out(const at::Tensor& tensor, Layout layout) {
  return (layout == Layout::kTransposed ? tensor.t() : tensor).contiguous();
}

Shape in_file(const Shape& shape, Layout layout) {
  return layout == Layout::kTransposed ? Shape{shape[1], shape[0]} : shape;
}

}  // namespace

ModelConfig from_config(const Json& json, const std::string& where) {
  ModelConfig config;
  config.layers = size_of(json, "n_layer", where);
  config.heads = size_of(json, "n_head", where);
  config.width = size_of(json, "n_embd", where);
  config.context = size_of(json, json.contains("n_positions") ? "n_positions" : "n_ctx", where);
  config.vocab_size = size_of(json, "vocab_size", where);
  hf::check_multiple("n_embd", config.width, "n_head", config.heads, where);
  check_variants(json, config.width, where);
  return config;
}

Json to_config(const ModelConfig& config, std::optional<int64_t> end_of_text) {
  const Json end = end_of_text ? Json(*end_of_text) : Json(nullptr);
  Json json = {{"architectures", Json::array({"GPT2LMHeadModel"})},
               {"model_type", "gpt2"},
               {"n_layer", config.layers},
               {"n_head", config.heads},
               {"n_embd", config.width},
               {"n_positions", config.context},
               {"n_ctx", config.context},  // read by older programs
               {"n_inner", nullptr},
               {"vocab_size", config.vocab_size},
               {"bos_token_id", end},
               {"eos_token_id", end},
               {"embd_pdrop", config.dropout},
               {"attn_pdrop", config.dropout},
               {"resid_pdrop", config.dropout},
               {"torch_dtype", "float32"}};
  for (const Variant& variant : variants()) json[variant.key] = variant.accepted.front();
  return json;
}

Tensors from_weights(Tensors tensors, const ModelConfig& config, const std::string& where) {
  Tensors rest = hf::without_prefix(std::move(tensors), kPrefix, is_mask, where);
  Tensors weights;
  for_each_parameter(config, [&](const auto& name, const auto& shape, Layout layout) {
    weights[name] = laid_out(hf::taken(rest, name, in_file(shape, layout), where), layout);
  });
  hf::take_tied_head(rest, "wte.weight", weights.at("wte.weight"),
                     "which is the head of Mezzo's GPT-2", where);
  hf::check_is_empty(rest, config.family, where);
  return weights;
}

Tensors to_weights(const Tensors& weights, const ModelConfig& config) {
  Tensors tensors;
  for_each_parameter(config, [&](const auto& name, const auto& shape, Layout layout) {
    const bool is_zero = !config.bias && name.ends_with(".bias");
    tensors[std::string(kPrefix) + name] =
        is_zero ? at::zeros(shape) : laid_out(hf::parameter(weights, name, shape), layout);
  });
  return tensors;
}

}  // namespace mezzo::models::hf_gpt2
