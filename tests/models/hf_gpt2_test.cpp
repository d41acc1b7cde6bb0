// A GPT-2 as Hugging Face's libraries keep it (mezzo/models/hf_gpt2.h).
#include <limits>
#include <tuple>

#include <nlohmann/json.hpp>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/safetensors.h"
#include "mezzo/models/hf_checkpoint.h"
#include "tests/close.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/models/hf_tensors.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using Json = nlohmann::json;
using testing::magnitude_of;

/// What transformers saved (tests/reference/make_hf_gpt2_golden.py).
const std::string kGolden = MEZZO_TEST_DATA "/hf_gpt2";

std::string golden_config() { return testing::read_file(kGolden + "/config.json"); }
Tensors golden_tensors() { return load_safetensors(kGolden + "/model.safetensors").tensors; }

class HfGPT2Golden : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(HfGPT2Golden, LogitsEqualThoseOfTransformers) {
  const Tensors golden = load_safetensors(kGolden + "/logits.safetensors").tensors;
  const ModelConfig config = from_hf_config(golden_config(), "config.json");
  GPT2 model = with_weights<GPT2>(config, from_hf_weights(golden_tensors(), config, "golden"));
  model->to(GetParam());
  model->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor &tokens = golden.at("tokens"), expected = golden.at("logits");
  EXPECT_CLOSE(
      model(tokens), expected,
      tolerance_for(GetParam(), forward_length(config, tokens.size(1)), magnitude_of(expected)));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, HfGPT2Golden, ::testing::Values(at::kFloat, at::kDouble),
                         [](const auto& test) { return c10::toString(test.param); });

TEST(HfGPT2, AModelThatIsWrittenAndReadHasTheSameBits) {
  const GPT2 model(tiny_config(), /*seed=*/3);
  const Tensors file = to_hf_weights(weights_of(model), tiny_config());
  EXPECT_TRUE(file.contains("transformer.h.1.mlp.c_fc.weight"));
  expect_same_bits(from_hf_weights(file, tiny_config(), "file"), weights_of(model));
}

TEST(HfGPT2, TheFilesTensorsAreThoseOfTransformers) {
  const ModelConfig config = from_hf_config(golden_config(), "config.json");
  Tensors expected = golden_tensors();
  for (auto& [name, tensor] : expected) tensor = tensor.to(at::kFloat);
  expect_same_bits(to_hf_weights(from_hf_weights(golden_tensors(), config, "golden"), config),
                   expected);
}

TEST(HfGPT2, AModelWithoutBiasesIsWrittenWithZeros) {
  ModelConfig config = tiny_config();
  config.bias = false;
  GPT2 model(config, /*seed=*/3);
  const Tensors file = to_hf_weights(weights_of(model), config);
  EXPECT_BIT_EQUAL(file.at("transformer.h.0.attn.c_attn.bias"), at::zeros({3 * config.width}));
  GPT2 read = with_weights<GPT2>(tiny_config(), from_hf_weights(file, tiny_config(), "file"));
  const at::Tensor logits = model(tiny_golden("tokens")[0]);
  EXPECT_CLOSE(
      read(tiny_golden("tokens")[0]), logits,
      2 * tolerance_for(at::kFloat, forward_length(config, config.context), magnitude_of(logits)));
}

TEST(HfGPT2, NamesMayLackTheirPrefixAndMasksAreLeftOut) {
  const GPT2 model(tiny_config());
  Tensors file;
  for (const auto& [name, tensor] : to_hf_weights(weights_of(model), tiny_config()))
    file[name.substr(std::string("transformer.").size())] = tensor;
  file["h.0.attn.bias"] = at::ones({1, 1, 16, 16}, at::kByte);
  file["h.1.attn.masked_bias"] = at::full({}, -1e4);
  file["lm_head.weight"] = file.at("wte.weight").clone();
  expect_same_bits(from_hf_weights(file, tiny_config(), "file"), weights_of(model));
}

TEST(HfGPT2, AWrongTensorIsNamed) {
  const Tensors file = to_hf_weights(weights_of(GPT2(tiny_config())), tiny_config());
  const auto changed = [&](const std::string& name, const at::Tensor& tensor) {
    Tensors other = file;
    other.erase(name);
    if (tensor.defined()) other[name] = tensor;
    return from_hf_weights(other, tiny_config(), "FILE");
  };
  const std::string c_fc = "transformer.h.1.mlp.c_fc.weight";
  EXPECT_THROW_WITH(changed(c_fc, {}),
                    "[FILE] tensor \"h.1.mlp.c_fc.weight\" must be there, but is not");
  EXPECT_THROW_WITH(changed(c_fc, file.at(c_fc).t()),
                    "\"h.1.mlp.c_fc.weight\" must have the shape [32, 128], as config.json has it, "
                    "but has [128, 32]");
  EXPECT_THROW_WITH(changed(c_fc, file.at(c_fc).to(at::kChar)),
                    "\"h.1.mlp.c_fc.weight\" must be of floating point, but is Char");
  EXPECT_THROW_WITH(changed("score.weight", at::ones({2, 32})),
                    "tensor \"score.weight\" must not be there");
  EXPECT_THROW_WITH(changed("transformer.h.2.ln_1.weight", at::ones({32})),
                    "tensor \"h.2.ln_1.weight\" must not be there");
  EXPECT_THROW_WITH(changed("wte.weight", file.at("transformer.wte.weight")),
                    "tensor \"wte.weight\" must be there once");
  EXPECT_THROW_WITH(changed("lm_head.weight", at::zeros({64, 32})),
                    "tensor \"lm_head.weight\" must equal \"wte.weight\"");
}

TEST(HfGPT2, AParameterThatIsNotThereCannotBeWritten) {
  Tensors weights = weights_of(GPT2(tiny_config()));
  weights.erase("ln_f.bias");
  EXPECT_THROW_WITH(to_hf_weights(weights, tiny_config()), "parameter \"ln_f.bias\" must be there");
}

TEST(HfGPT2, TheShapeIsThatOfConfigJson) {
  const ModelConfig config = from_hf_config(golden_config(), "config.json");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.width, 32);
  EXPECT_EQ(config.context, 32);
  EXPECT_EQ(config.vocab_size, 96);
  EXPECT_TRUE(config.bias);
  EXPECT_EQ(config.dropout, 0.0);
}

TEST(HfGPT2, AConfigThatIsWrittenIsReadAsTheSameShape) {
  const ModelConfig written{
      .layers = 3, .heads = 4, .width = 64, .context = 8, .vocab_size = 99, .dropout = 0.25};
  const std::string text = to_hf_config(written, /*end_of_text=*/7);
  const ModelConfig read = from_hf_config(text, "config.json");
  EXPECT_EQ(
      std::tie(read.layers, read.heads, read.width, read.context, read.vocab_size),
      std::tie(written.layers, written.heads, written.width, written.context, written.vocab_size));
  const Json json = Json::parse(text);
  EXPECT_EQ(json.at("architectures"), Json::array({"GPT2LMHeadModel"}));
  EXPECT_EQ(json.at("eos_token_id"), 7);
  EXPECT_EQ(json.at("resid_pdrop"), 0.25);
  // Hugging Face's default, 50256, would be beyond this vocabulary.
  EXPECT_TRUE(Json::parse(to_hf_config(written, std::nullopt)).at("bos_token_id").is_null());
}

TEST(HfGPT2, OlderFilesSayTheContextAsNCtx) {
  Json json = Json::parse(golden_config());
  json.erase("n_positions");
  EXPECT_THROW_WITH(from_hf_config(json.dump(), "FILE"), "[FILE] n_ctx must be there, but is not");
  json["n_ctx"] = 17;
  EXPECT_EQ(from_hf_config(json.dump(), "FILE").context, 17);
}

TEST(HfGPT2, AModelThatComputesSomethingElseIsRefusedByKeyAndValue) {
  const auto with = [](const char* key, const Json& value) {
    Json json = Json::parse(golden_config());
    json[key] = value;
    return from_hf_config(json.dump(), "FILE");
  };
  EXPECT_THROW_WITH(
      with("activation_function", "gelu"),
      "[FILE] activation_function must be \"gelu_new\" or \"gelu_pytorch_tanh\", the GPT-2 "
      "that Mezzo computes, but is \"gelu\"");
  EXPECT_THROW_WITH(with("layer_norm_epsilon", 1e-6), "layer_norm_epsilon must be 1e-05");
  EXPECT_THROW_WITH(with("scale_attn_by_inverse_layer_idx", true), "but is true");
  EXPECT_THROW_WITH(with("scale_attn_weights", false), "scale_attn_weights must be true");
  EXPECT_THROW_WITH(with("add_cross_attention", true), "add_cross_attention must be false");
  EXPECT_THROW_WITH(with("tie_word_embeddings", false), "tie_word_embeddings must be true");
  EXPECT_THROW_WITH(with("n_inner", 100), "n_inner must be null or 128");
  EXPECT_EQ(with("n_inner", 128).width, 32);
  EXPECT_EQ(with("activation_function", "gelu_pytorch_tanh").layers, 2);
  EXPECT_THROW_WITH(with("n_head", 3), "n_embd must be a multiple of n_head, 3, but is 32");
}

TEST(HfGPT2, AWrongSizeIsRefusedByKeyAndValue) {
  const auto with = [](const Json& value) {
    Json json = Json::parse(golden_config());
    json["n_layer"] = value;
    return from_hf_config(json.dump(), "FILE");
  };
  for (const Json& wrong : {Json(0), Json(-1), Json("2"), Json(2.5), Json(nullptr), Json(1LL << 40),
                            Json(std::numeric_limits<uint64_t>::max())})
    EXPECT_THROW_WITH(with(wrong),
                      "n_layer must be an integer from 1 to 2147483647, but is " + wrong.dump());
}

}  // namespace
}  // namespace mezzo::models
