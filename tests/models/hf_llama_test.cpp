// A Llama as Hugging Face's libraries keep it (mezzo/models/hf_llama.h).
#include <algorithm>
#include <limits>
#include <tuple>

#include <nlohmann/json.hpp>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/safetensors.h"
#include "mezzo/models/hf_checkpoint.h"
#include "mezzo/models/llama.h"
#include "tests/close.h"
#include "tests/models/config_fields.h"
#include "tests/models/hf_tensors.h"
#include "tests/models/llama_tiny.h"
#include "tests/models/roundings.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using Json = nlohmann::json;
using testing::magnitude_of;

// ---- What transformers saved and computed (tests/reference/make_hf_llama_golden.py)

std::string golden_config(const std::string& folder = "hf_llama") {
  return testing::read_file(MEZZO_TEST_DATA "/" + folder + "/config.json");
}

Tensors golden_tensors(const std::string& folder, const std::string& file = "model") {
  return load_safetensors(MEZZO_TEST_DATA "/" + folder + "/" + file + ".safetensors").tensors;
}

struct Golden {
  explicit Golden(const std::string& folder)
      : config(from_hf_config(golden_config(folder), "config.json")),
        weights(from_hf_weights(golden_tensors(folder), config, "golden")),
        reference(golden_tensors(folder, "reference")) {}

  /// By our names.
  Tensors gradients() const {
    const std::string prefix = "grad.";
    Tensors file;
    for (const auto& [name, tensor] : reference)
      if (name.starts_with(prefix)) file[name.substr(prefix.size())] = tensor;
    return from_hf_weights(file, config, "gradients");
  }

  ModelConfig config;
  Tensors weights, reference;
};

class HfLlamaGolden : public ::testing::TestWithParam<std::tuple<const char*, at::ScalarType>> {
 protected:
  HfLlamaGolden() { model->to(dtype); }

  at::ScalarType dtype = std::get<1>(GetParam());
  Golden golden{std::get<0>(GetParam())};
  ModelConfig config = golden.config;
  at::Tensor tokens = golden.reference.at("tokens"), targets = golden.reference.at("targets");
  int64_t B = tokens.size(0), T = tokens.size(1);
  Llama model = with_weights<Llama>(config, golden.weights);
};

TEST_P(HfLlamaGolden, LogitsEqualThoseOfTransformers) {
  const at::NoGradGuard no_grad;
  const at::Tensor& expected = golden.reference.at("logits");
  EXPECT_CLOSE(model(tokens), expected,
               tolerance_for(dtype, forward_length(config, T), magnitude_of(expected)));
}

TEST_P(HfLlamaGolden, LossEqualsThatOfTransformers) {
  const at::Tensor& expected = golden.reference.at("loss");
  EXPECT_CLOSE(model->loss(tokens, targets), expected,
               tolerance_for(dtype, loss_length(config, B, T), magnitude_of(expected)));
}

TEST_P(HfLlamaGolden, EveryGradientEqualsThatOfTransformers) {
  model->loss(tokens, targets).backward();
  const Tensors expected = golden.gradients();
  double magnitude = 0;  // a small gradient is what is left of sums of larger ones
  for (const auto& [name, gradient] : expected)
    magnitude = std::max(magnitude, magnitude_of(gradient));
  const double tolerance = tolerance_for(dtype, grad_length(config, B, T), magnitude);
  const double in_the_file = float_format(at::kFloat).epsilon / 2;  // it keeps them in fp32
  ASSERT_EQ(model->named_parameters().size(), expected.size());
  for (const auto& parameter : model->named_parameters()) {
    SCOPED_TRACE(parameter.key());
    const at::Tensor want = expected.at(parameter.key()).to(at::kDouble);
    EXPECT_TRUE(
        testing::is_within(parameter.value().grad(), want, want.abs() * in_the_file + tolerance));
  }
}

INSTANTIATE_TEST_SUITE_P(All, HfLlamaGolden,
                         ::testing::Combine(::testing::Values("hf_llama", "hf_llama3"),
                                            ::testing::Values(at::kFloat, at::kDouble)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  c10::toString(std::get<1>(test.param));
                         });

// ---- Weights

TEST(HfLlama, AModelThatIsWrittenAndReadHasTheSameBits) {
  for (const bool is_tied : {true, false}) {
    const ModelConfig config = tiny_llama_config(is_tied);
    const Tensors weights = weights_of(Llama(config, /*seed=*/3));
    const Tensors file = to_hf_weights(weights, config);
    EXPECT_EQ(file.at("model.layers.1.self_attn.k_proj.weight").sizes(), at::IntArrayRef({16, 32}));
    EXPECT_EQ(file.contains("lm_head.weight"), !is_tied);
    expect_same_bits(from_hf_weights(file, config, "file"), weights);
  }
}

TEST(HfLlama, TheFilesTensorsAreThoseOfTransformers) {
  for (const char* folder : {"hf_llama", "hf_llama3"}) {
    const Golden golden(folder);
    Tensors expected = golden_tensors(folder);
    for (auto& [name, tensor] : expected) tensor = tensor.to(at::kFloat);
    expect_same_bits(to_hf_weights(golden.weights, golden.config), expected);
  }
}

TEST(HfLlama, RowsAreJoinedInOrder) {
  const Golden golden("hf_llama3");
  const Tensors file = golden_tensors("hf_llama3");
  const at::Tensor& qkv = golden.weights.at("layers.0.self_attn.qkv_proj.weight");
  const at::Tensor& gate_up = golden.weights.at("layers.0.mlp.gate_up_proj.weight");
  const auto expect_rows = [&](const at::Tensor& joined, int64_t from, const std::string& name) {
    const at::Tensor rows = file.at("model.layers.0." + name + "_proj.weight").to(at::kFloat);
    EXPECT_BIT_EQUAL(joined.narrow(0, from, rows.size(0)), rows);
  };
  expect_rows(qkv, 0, "self_attn.q");
  expect_rows(qkv, 32, "self_attn.k");
  expect_rows(qkv, 40, "self_attn.v");
  expect_rows(gate_up, 0, "mlp.gate");
  expect_rows(gate_up, 48, "mlp.up");
}

TEST(HfLlama, NamesMayLackTheirPrefixAndFrequenciesAreLeftOut) {
  const Tensors weights = weights_of(Llama(tiny_llama_config()));
  Tensors file;
  for (const auto& [name, tensor] : to_hf_weights(weights, tiny_llama_config()))
    file[name.substr(std::string("model.").size())] = tensor;
  file["layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({4});
  file["model.layers.1.self_attn.rotary_emb.inv_freq"] = at::ones({4});
  file["rotary_emb.inv_freq"] = at::ones({4});
  file["lm_head.weight"] = file.at("embed_tokens.weight").clone();
  expect_same_bits(from_hf_weights(file, tiny_llama_config(), "file"), weights);
}

TEST(HfLlama, AWrongTensorIsNamed) {
  const Tensors file = to_hf_weights(weights_of(Llama(tiny_llama_config())), tiny_llama_config());
  const auto changed = [&](const std::string& name, const at::Tensor& tensor) {
    Tensors other = file;
    other.erase(name);
    if (tensor.defined()) other[name] = tensor;
    return from_hf_weights(other, tiny_llama_config(), "FILE");
  };
  const std::string k_proj = "model.layers.1.self_attn.k_proj.weight";
  EXPECT_THROW_WITH(changed(k_proj, {}),
                    "[FILE] tensor \"layers.1.self_attn.k_proj.weight\" must be there, but is not");
  EXPECT_THROW_WITH(changed(k_proj, at::zeros({32, 32})),
                    "\"layers.1.self_attn.k_proj.weight\" must have the shape [16, 32], as "
                    "config.json has it, but has [32, 32]");
  EXPECT_THROW_WITH(changed(k_proj, file.at(k_proj).to(at::kChar)),
                    "\"layers.1.self_attn.k_proj.weight\" must be of floating point, but is Char");
  EXPECT_THROW_WITH(changed("model.layers.0.self_attn.q_proj.bias", at::ones({32})),
                    "tensor \"layers.0.self_attn.q_proj.bias\" must not be there: Llama has no "
                    "such parameter");
  EXPECT_THROW_WITH(changed("model.layers.2.mlp.up_proj.weight", at::ones({48, 32})),
                    "tensor \"layers.2.mlp.up_proj.weight\" must not be there");
  EXPECT_THROW_WITH(changed("norm.weight", at::ones({32})),
                    "tensor \"norm.weight\" must be there once, but is there with and without "
                    "model.");
}

TEST(HfLlama, TheHeadIsThereOrTiedAsConfigJsonSays) {
  const ModelConfig tied = tiny_llama_config(), untied = tiny_llama_config(/*is_tied=*/false);
  Tensors file = to_hf_weights(weights_of(Llama(tied)), tied);
  EXPECT_THROW_WITH(from_hf_weights(file, untied, "FILE"),
                    "[FILE] tensor \"lm_head.weight\" must be there, but is not");
  file["lm_head.weight"] = at::zeros({64, 32});
  EXPECT_BIT_EQUAL(from_hf_weights(file, untied, "FILE").at("lm_head.weight"), at::zeros({64, 32}));
  EXPECT_THROW_WITH(from_hf_weights(file, tied, "FILE"),
                    "tensor \"lm_head.weight\" must equal \"embed_tokens.weight\", as "
                    "tie_word_embeddings is true, but differs");
}

TEST(HfLlama, AParameterThatIsNotThereCannotBeWritten) {
  const Tensors weights = weights_of(Llama(tiny_llama_config()));
  Tensors fewer = weights, other = weights;
  fewer.erase("norm.weight");
  EXPECT_THROW_WITH(to_hf_weights(fewer, tiny_llama_config()),
                    "parameter \"norm.weight\" must be there");
  other["layers.0.self_attn.qkv_proj.weight"] = at::zeros({96, 32});
  EXPECT_THROW_WITH(to_hf_weights(other, tiny_llama_config()),
                    "parameter \"layers.0.self_attn.qkv_proj.weight\" must be there, with the "
                    "shape [64, 32], but is not");
}

// ---- config.json

ModelConfig with(const std::string& key, const Json& value) {
  Json json = Json::parse(golden_config());
  json[Json::json_pointer("/" + key)] = value;
  return from_hf_config(json.dump(), "FILE");
}

ModelConfig without(const std::string& key) {
  Json json = Json::parse(golden_config());
  json.erase(key);
  return from_hf_config(json.dump(), "FILE");
}

const ModelConfig kGoldenShape{.family = Family::kLlama,
                               .layers = 2,
                               .heads = 4,
                               .width = 32,
                               .context = 32,
                               .vocab_size = 96,
                               .bias = false,
                               .kv_heads = 2,
                               .mlp_width = 48};

const kernels::Llama3Scaling kScaling{.factor = 4.0, .original_context = 16};

TEST(HfLlama, TheShapeIsThatOfConfigJson) {
  EXPECT_EQ(fields(from_hf_config(golden_config(), "FILE")), fields(kGoldenShape));
  ModelConfig llama3 = kGoldenShape;
  llama3.layers = 1;
  llama3.context = 64;
  llama3.vocab_size = 64;
  llama3.kv_heads = 1;
  llama3.tied = false;
  llama3.norm_eps = 1e-6;
  llama3.rope = {.base = 500000.0, .scaling = kScaling};
  EXPECT_EQ(fields(from_hf_config(golden_config("hf_llama3"), "FILE")), fields(llama3));
}

TEST(HfLlama, WhatIsNotThereIsHuggingFacesDefault) {
  EXPECT_EQ(without("num_key_value_heads").kv_heads, 4);
  EXPECT_EQ(with("num_key_value_heads", nullptr).kv_heads, 4);
  EXPECT_FALSE(without("tie_word_embeddings").tied);
  EXPECT_EQ(without("rms_norm_eps").norm_eps, 1e-6);
  EXPECT_EQ(without("rope_parameters").rope.base, 10000.0);
  for (const char* key : {"head_dim", "hidden_act", "attention_bias", "mlp_bias", "pretraining_tp"})
    EXPECT_EQ(fields(without(key)), fields(kGoldenShape)) << key;
  EXPECT_EQ(fields(with("head_dim", nullptr)), fields(kGoldenShape));
  EXPECT_EQ(fields(with("hidden_act", "swish")), fields(kGoldenShape));
}

/// config.json with these in place of rope_parameters.
kernels::RopeOptions rope_with(const Json& keys) {
  Json json = Json::parse(golden_config());
  json.erase("rope_parameters");
  json.update(keys);
  return from_hf_config(json.dump(), "FILE").rope;
}

const Json kLlama3 = {{"rope_type", "llama3"},
                      {"factor", 4},
                      {"low_freq_factor", 1.0},
                      {"high_freq_factor", 4.0},
                      {"original_max_position_embeddings", 16}};

TEST(HfLlama, RotaryOptionsAreReadWhereEitherTransformersKeepsThem) {
  const auto scaled = [](const kernels::RopeOptions& rope) {
    ModelConfig config = kGoldenShape;
    config.rope = rope;
    return fields(config);
  };
  const auto expected = scaled({.base = 5e5, .scaling = kScaling});
  Json own = kLlama3;
  own["rope_theta"] = 5e5;
  EXPECT_EQ(scaled(rope_with({{"rope_parameters", own}})), expected);
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 500000}, {"rope_scaling", kLlama3}})), expected);
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 5e5}, {"rope_parameters", kLlama3}})), expected);
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 5e5},
                              {"rope_scaling", kLlama3},
                              {"rope_parameters", {{"rope_type", "default"}}}})),
            expected);
  const auto plain = scaled({.base = 5e5});
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 5e5}})), plain);
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 5e5}, {"rope_scaling", nullptr}})), plain);
  EXPECT_EQ(scaled(rope_with({{"rope_theta", 5e5}, {"rope_scaling", {{"type", "default"}}}})),
            plain);
  EXPECT_EQ(scaled(rope_with({{"rope_scaling", nullptr}, {"rope_parameters", own}})), expected);
}

TEST(HfLlama, AConfigThatIsWrittenIsReadAsTheSameShape) {
  ModelConfig written = tiny_llama_config(/*is_tied=*/false);
  written.norm_eps = 1e-6;
  written.rope = {.base = 5e5, .scaling = kScaling};
  for (const ModelConfig& config : {tiny_llama_config(), written})
    EXPECT_EQ(fields(from_hf_config(to_hf_config(config, std::nullopt), "FILE")), fields(config));

  written.dropout = 0.25;
  const Json json = Json::parse(to_hf_config(written, /*end_of_text=*/7));
  EXPECT_EQ(json.at("architectures"), Json::array({"LlamaForCausalLM"}));
  EXPECT_EQ(json.at("eos_token_id"), 7);
  EXPECT_EQ(json.at("attention_dropout"), 0.25);
  EXPECT_EQ(json.at("rope_scaling"), kLlama3);
  const Json other = Json::parse(to_hf_config(tiny_llama_config(), std::nullopt));
  EXPECT_TRUE(other.at("rope_scaling").is_null());
  // Hugging Face's defaults, 1 and 2, would be other tokens of this vocabulary.
  EXPECT_TRUE(other.at("bos_token_id").is_null());
}

TEST(HfLlama, AModelThatComputesSomethingElseIsRefusedByKeyAndValue) {
  EXPECT_THROW(with("hidden_act", "gelu"), UsageError);
  EXPECT_THROW_WITH(with("hidden_act", "gelu"),
                    "[FILE] hidden_act must be \"silu\" or \"swish\", the Llama that Mezzo "
                    "computes, but is \"gelu\"");
  EXPECT_THROW_WITH(with("attention_bias", true), "attention_bias must be false");
  EXPECT_THROW_WITH(with("mlp_bias", true), "mlp_bias must be false");
  EXPECT_THROW_WITH(with("pretraining_tp", 2), "pretraining_tp must be 1 or null");
  EXPECT_THROW_WITH(with("head_dim", 16),
                    "head_dim must be null or 8, the Llama that Mezzo computes, but is 16");
  EXPECT_THROW_WITH(with("tie_word_embeddings", 1), "tie_word_embeddings must be false or true");
  EXPECT_THROW_WITH(with("num_attention_heads", 3),
                    "hidden_size must be a multiple of num_attention_heads, 3, but is 32");
  EXPECT_THROW_WITH(with("num_key_value_heads", 3),
                    "num_attention_heads must be a multiple of num_key_value_heads, 3, but is 4");
  Json odd = Json::parse(golden_config());
  odd.update({{"hidden_size", 36}, {"head_dim", 9}});
  EXPECT_THROW_WITH(from_hf_config(odd.dump(), "FILE"),
                    "hidden_size / num_attention_heads must be even, but is 36 / 4 = 9");
}

TEST(HfLlama, AnotherRotaryEmbeddingIsRefusedByKeyAndValue) {
  EXPECT_THROW_WITH(with("rope_parameters/rope_type", "yarn"),
                    "rope_parameters/rope_type must be \"default\" or \"llama3\", the Llama that "
                    "Mezzo computes, but is \"yarn\"");
  EXPECT_THROW_WITH(rope_with({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}),
                    "rope_scaling/type must be \"default\" or \"llama3\"");
  EXPECT_THROW_WITH(with("partial_rotary_factor", 0.5), "partial_rotary_factor must be 1.0");
  EXPECT_THROW_WITH(with("rope_parameters/partial_rotary_factor", 0.5),
                    "rope_parameters/partial_rotary_factor must be 1.0 or null");
  EXPECT_THROW_WITH(with("rope_scaling", "llama3"),
                    "rope_scaling must be null or an object, but is \"llama3\"");
  EXPECT_THROW_WITH(with("rope_parameters/rope_theta", -1),
                    "rope_parameters/rope_theta must be a finite number above 0, but is -1");
  EXPECT_THROW_WITH(with("rope_theta", "1e4"), "rope_theta must be a finite number above 0");
}

TEST(HfLlama, AWrongNumberOfALlama3ScalingIsRefusedByKeyAndValue) {
  const auto scaling_with = [](const char* key, const Json& value) {
    Json scaling = kLlama3;
    value.is_null() ? void(scaling.erase(key)) : void(scaling[key] = value);
    return rope_with({{"rope_scaling", scaling}});
  };
  EXPECT_THROW_WITH(scaling_with("factor", nullptr), "rope_scaling/factor must be there");
  EXPECT_THROW_WITH(scaling_with("factor", 0), "rope_scaling/factor must be a finite number");
  EXPECT_THROW_WITH(scaling_with("low_freq_factor", "1"), "rope_scaling/low_freq_factor must be");
  EXPECT_THROW_WITH(scaling_with("high_freq_factor", 1),
                    "rope_scaling/high_freq_factor must be above low_freq_factor, 1, but is 1");
  EXPECT_THROW_WITH(scaling_with("original_max_position_embeddings", 2.5),
                    "rope_scaling/original_max_position_embeddings must be an integer from 1");
}

TEST(HfLlama, AWrongSizeIsRefusedByKeyAndValue) {
  for (const char* key :
       {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
        "intermediate_size", "max_position_embeddings", "vocab_size"}) {
    for (const Json& wrong : {Json(0), Json(-1), Json("2"), Json(2.5), Json(1LL << 40),
                              Json(std::numeric_limits<uint64_t>::max())})
      EXPECT_THROW_WITH(
          with(key, wrong),
          std::string(key) + " must be an integer from 1 to 2147483647, but is " + wrong.dump());
    if (key == std::string("num_key_value_heads")) continue;
    EXPECT_THROW_WITH(without(key), std::string(key) + " must be there, but is not");
  }
}

TEST(HfLlama, AWrongEpsilonIsRefused) {
  EXPECT_THROW_WITH(with("rms_norm_eps", 0), "rms_norm_eps must be a finite number above 0");
  EXPECT_THROW_WITH(with("rms_norm_eps", 1.5), "rms_norm_eps must be below 1, but is 1.5");
}

}  // namespace
}  // namespace mezzo::models
