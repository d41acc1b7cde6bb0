#include "mezzo/models/hf_gpt2.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/models/layers.h"

namespace mezzo::models {
namespace {

using Json = nlohmann::ordered_json;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::string_view kPrefix = "transformer.";
constexpr const char* kHead = "lm_head.weight";

// ---- config.json

/// What a key must be where it is there; where it is not, Hugging Face takes the first value.
struct Variant {
  const char* key;
  std::vector<Json> accepted;
};

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

Json parsed(std::string_view text, const std::string& where) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  MEZZO_CHECK(json.is_object(), where, "must hold a JSON object, but does not");
  return json;
}

void check_is_gpt2(const Json& json, const std::string& where) {
  const Json type = json.contains("model_type") ? json.at("model_type") : Json("absent");
  MEZZO_CHECK_USAGE(type == "gpt2", where, "model_type must be \"gpt2\", but is {}", type.dump());
}

void check_variants(const Json& json, int64_t width, const std::string& where) {
  const auto check = [&](const char* key, const std::vector<Json>& accepted) {
    const auto found = json.find(key);
    if (found == json.end() || std::count(accepted.begin(), accepted.end(), *found) > 0) return;
    std::vector<std::string> words;
    for (const Json& value : accepted) words.push_back(value.dump());
    detail::fail<UsageError>(where, "{} must be {}, the GPT-2 that Mezzo computes, but is {}", key,
                             fmt::join(words, " or "), found->dump());
  };
  for (const Variant& variant : variants()) check(variant.key, variant.accepted);
  check("n_inner", {nullptr, 4 * width});
}

int64_t size_of(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  MEZZO_CHECK(found != json.end(), where, "{} must be there, but is not", key);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const int64_t size = found->is_number_integer() ? found->get<int64_t>() : 0;
  MEZZO_CHECK(size >= 1 && size <= kMax, where, "{} must be an integer from 1 to {}, but is {}",
              key, kMax, found->dump());
  return size;
}

// ---- Weights

enum class Layout { kSame, kTransposed };

/// A parameter of the model: its name and shape here, and how the file has it.
using Visit =
    std::function<void(const std::string& name, const std::vector<int64_t>& shape, Layout layout)>;

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

Tensors without_prefix_and_masks(Tensors tensors, const std::string& where) {
  Tensors result;
  for (auto& [name, tensor] : tensors) {
    const std::string own = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
    if (is_mask(own)) continue;
    const bool is_new = result.emplace(own, std::move(tensor)).second;
    MEZZO_CHECK(is_new, where, "tensor \"{}\" must be there once, but is there with and without {}",
                own, kPrefix);
  }
  return result;
}

at::Tensor taken(Tensors& tensors, const std::string& name, std::vector<int64_t> shape,
                 Layout layout, const std::string& where) {
  auto node = tensors.extract(name);
  MEZZO_CHECK(!node.empty(), where, "tensor \"{}\" must be there, but is not", name);
  const at::Tensor tensor = std::move(node.mapped());
  const bool is_transposed = layout == Layout::kTransposed;
  if (is_transposed) shape = {shape[1], shape[0]};
  MEZZO_CHECK(tensor.sizes() == at::IntArrayRef(shape), where,
              "tensor \"{}\" must have the shape [{}], as config.json has it, but has [{}]", name,
              fmt::join(shape, ", "), fmt::join(tensor.sizes(), ", "));
  MEZZO_CHECK(tensor.is_floating_point(), where,
              "tensor \"{}\" must be of floating point, but is {}", name,
              c10::toString(tensor.scalar_type()));
  return (is_transposed ? tensor.t() : tensor).to(at::kFloat).contiguous();
}

void check_head_is_tied(Tensors& tensors, const at::Tensor& embedding, const std::string& where) {
  const auto head = tensors.extract(kHead);
  if (head.empty()) return;
  MEZZO_CHECK(head.mapped().sizes() == embedding.sizes() &&
                  at::equal(head.mapped().to(at::kFloat), embedding),
              where,
              "tensor \"{}\" must equal \"wte.weight\", which is the head of Mezzo's GPT-2, "
              "but differs",
              kHead);
}

}  // namespace

ModelConfig from_hf_config(std::string_view text, const std::string& where) {
  const Json json = parsed(text, where);
  check_is_gpt2(json, where);
  ModelConfig config;
  config.layers = size_of(json, "n_layer", where);
  config.heads = size_of(json, "n_head", where);
  config.width = size_of(json, "n_embd", where);
  config.context = size_of(json, json.contains("n_positions") ? "n_positions" : "n_ctx", where);
  config.vocab_size = size_of(json, "vocab_size", where);
  MEZZO_CHECK(config.width % config.heads == 0, where,
              "n_embd must be a multiple of n_head, {}, but is {}", config.heads, config.width);
  check_variants(json, config.width, where);
  return config;
}

std::string to_hf_config(const ModelConfig& config, std::optional<int64_t> end_of_text) {
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
  return json.dump(2) + "\n";
}

Tensors from_hf_weights(Tensors tensors, const ModelConfig& config, const std::string& where) {
  Tensors rest = without_prefix_and_masks(std::move(tensors), where);
  Tensors weights;
  for_each_parameter(config, [&](const auto& name, const auto& shape, Layout layout) {
    weights[name] = taken(rest, name, shape, layout, where);
  });
  check_head_is_tied(rest, weights.at("wte.weight"), where);
  MEZZO_CHECK(rest.empty(), where, "tensor \"{}\" must not be there: GPT-2 has no such parameter",
              rest.begin()->first);
  return weights;
}

Tensors to_hf_weights(const Tensors& weights, const ModelConfig& config) {
  Tensors tensors;
  for_each_parameter(config, [&](const auto& name, const auto& shape, Layout layout) {
    at::Tensor& tensor = tensors[std::string(kPrefix) + name];
    if (!config.bias && name.ends_with(".bias")) {
      tensor = at::zeros(shape);
      return;
    }
    const auto found = weights.find(name);
    MEZZO_CHECK(found != weights.end() && found->second.sizes() == at::IntArrayRef(shape),
                "to_hf_weights", "parameter \"{}\" must be there, with the shape [{}], but is not",
                name, fmt::join(shape, ", "));
    const at::Tensor& weight = found->second;
    tensor = (layout == Layout::kTransposed ? weight.t() : weight).to(at::kFloat).contiguous();
  });
  return tensors;
}

}  // namespace mezzo::models
