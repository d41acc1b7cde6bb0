// What a Llama has of its own; hf_llama_test.cpp compares it with transformers'.
#include "mezzo/models/llama.h"

#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/models/llama_tiny.h"
#include "tests/models/roundings.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using testing::magnitude_of;

constexpr int64_t kB = 3, kT = 16;

at::Tensor tokens(int64_t shift = 0) {
  return (at::arange(kB * kT).mul(7) + shift).remainder(64).view({kB, kT});
}

/// What two ways to the same logits in fp64 may differ by.
double rounding(const at::Tensor& logits) {
  return 2 *
         tolerance_for(at::kDouble, forward_length(tiny_llama_config(), kT), magnitude_of(logits));
}

TEST(Llama, ParametersAreNamedAndShapedAsItsHeaderSays) {
  ModelConfig config = tiny_llama_config();
  config.layers = 1;
  config.tied = false;
  const Llama model(config);
  std::vector<std::pair<std::string, std::vector<int64_t>>> found;
  for (const auto& item : model->named_parameters())
    found.emplace_back(item.key(), item.value().sizes().vec());
  EXPECT_THAT(found,
              ::testing::UnorderedElementsAre(
                  std::pair("embed_tokens.weight", std::vector<int64_t>{64, 32}),
                  std::pair("layers.0.input_layernorm.weight", std::vector<int64_t>{32}),
                  std::pair("layers.0.self_attn.qkv_proj.weight",
                            std::vector<int64_t>{(4 + 2 * 2) * 8, 32}),
                  std::pair("layers.0.self_attn.o_proj.weight", std::vector<int64_t>{32, 32}),
                  std::pair("layers.0.post_attention_layernorm.weight", std::vector<int64_t>{32}),
                  std::pair("layers.0.mlp.gate_up_proj.weight", std::vector<int64_t>{2 * 48, 32}),
                  std::pair("layers.0.mlp.down_proj.weight", std::vector<int64_t>{32, 48}),
                  std::pair("norm.weight", std::vector<int64_t>{32}),
                  std::pair("lm_head.weight", std::vector<int64_t>{64, 32})));
}

TEST(Llama, ATiedHeadIsTheTokenEmbeddingAndOneOfItsOwnIsNot) {
  for (const bool tied : {true, false}) {
    ModelConfig config = tiny_llama_config();
    config.tied = tied;
    Llama model(config);
    const at::Tensor features = at::ones({1, 32}), before = model->head(features);
    const at::NoGradGuard no_grad;
    model->embed_tokens->weight.mul_(2.0);
    EXPECT_BIT_EQUAL(model->head(features), tied ? before * 2.0 : before);
  }
}

// Queries and keys are turned; were values, too, the sum of equal ones would depend on the
// position.
TEST(Llama, TheSameTokenThroughoutGivesTheSameLogitsEverywhere) {
  Llama model(tiny_llama_config());
  model->to(at::kDouble);
  const at::Tensor logits = model(at::full({1, kT}, 5, at::kLong));
  EXPECT_CLOSE(logits, logits.narrow(1, 0, 1).expand_as(logits), rounding(logits));
}

// In a single layer, without positions, earlier tokens would be a set.
TEST(Llama, TheOrderOfTokensMatters) {
  ModelConfig config = tiny_llama_config();
  config.layers = 1;
  Llama model(config);
  model->to(at::kDouble);
  const auto last_logits = [&](const std::vector<int64_t>& text) {
    return model(at::tensor(text).unsqueeze(0)).select(1, -1);
  };
  const at::Tensor logits = last_logits({3, 9, 27, 4});
  EXPECT_GT(magnitude_of(last_logits({9, 3, 27, 4}) - logits), rounding(logits));
}

// Grouped heads are heads of their own whose keys and values are the same.
TEST(Llama, GroupedHeadsAreRepeatedOnes) {
  const ModelConfig grouped = tiny_llama_config();
  ModelConfig whole = grouped;
  whole.kv_heads = whole.heads;
  Llama a(grouped, 3), b(whole, 3);
  const at::NoGradGuard no_grad;
  const auto from = a->named_parameters();
  for (auto& item : b->named_parameters()) {
    const at::Tensor& weight = from[item.key()];
    if (item.key().ends_with("qkv_proj.weight")) {
      const auto parts = weight.unflatten(0, {8, 8}).split_with_sizes({4, 2, 2});
      item.value().copy_(
          at::cat({parts[0], parts[1].repeat_interleave(2, 0), parts[2].repeat_interleave(2, 0)})
              .flatten(0, 1));
    } else {
      item.value().copy_(weight);
    }
  }
  const at::Tensor logits = a(tokens());
  EXPECT_CLOSE(b(tokens()), logits,
               2 * tolerance_for(at::kFloat, forward_length(grouped, kT), magnitude_of(logits)));
}

/// The standard deviation of n normal draws is itself off by sigma / sqrt(2 n); five of that.
TEST(Llama, InitialisesAsGPT2) {
  const Llama model(tiny_llama_config());
  for (const auto& item : model->named_parameters()) {
    SCOPED_TRACE(item.key());
    const at::Tensor& value = item.value();
    if (value.dim() == 1) {
      EXPECT_BIT_EQUAL(value, at::ones_like(value));
      continue;
    }
    const bool ends_branch = item.key().find("o_proj") != std::string::npos ||
                             item.key().find("down_proj") != std::string::npos;
    const double sigma = ends_branch ? 0.02 / std::sqrt(2.0 * 2) : 0.02;
    EXPECT_NEAR(value.std().item<double>(), sigma,
                5 * sigma / std::sqrt(2.0 * static_cast<double>(value.numel())));
  }
}

// The table of angles is none of the parameters that a cast rounds.
TEST(Llama, PositionsAreTurnedByFp32AnglesWhateverTheDtype) {
  ModelConfig config = tiny_llama_config();
  config.context = 512;
  Llama model(config), cast(config);
  cast->to(at::kBFloat16);
  cast->to(at::kFloat);
  const at::NoGradGuard no_grad;
  const auto rounded = cast->named_parameters();
  for (auto& item : model->named_parameters()) item.value().copy_(rounded[item.key()]);
  const at::Tensor text = at::arange(512).mul(7).remainder(64).view({1, 512});
  EXPECT_BIT_EQUAL(model(text), cast(text));
}

TEST(Llama, TheInnerBlocksLinearLayersMultiplyInFp8) {
  ModelConfig config = tiny_llama_config();
  config.layers = 4;
  for (const bool is_fused : {true, false}) {
    Llama model(config);
    const at::NoGradGuard no_grad;
    const Autocast autocast(at::kCPU, at::kBFloat16);
    const at::Tensor text = tokens().narrow(0, 0, 2);
    const at::Tensor plain = model(text).to(at::kFloat);
    model->set_fp8(kernels::Fp8Scaling{});
    model->set_fused(is_fused);
    const at::Tensor got = model(text).to(at::kFloat);
    const double distance = ((got - plain).norm() / plain.norm()).item<double>();
    // As GPT2Fp8 counts it: 8 products of two numbers that are off by u / sqrt(3) each.
    EXPECT_LT(distance, std::sqrt(8 * 2 * std::pow(kFp8E4M3.epsilon / 2, 2) / 3));
    EXPECT_FALSE(testing::is_bit_equal(got, plain)) << "was it FP8 at all?";
  }
}

TEST(Llama, TheCastersAreNamedByTheirLayers) {
  ModelConfig config = tiny_llama_config();
  config.layers = 3;
  Llama model(config);
  model->set_fp8(kernels::Fp8Scaling{.is_delayed = true, .history = 4});
  {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    model->loss(tokens(), tokens(1)).backward();
  }
  std::vector<std::string> names;
  for (const auto& [name, history] : model->fp8_histories()) names.push_back(name);
  std::vector<std::string> expected;
  for (const char* layer :
       {"mlp.down_proj", "mlp.gate_up_proj", "self_attn.o_proj", "self_attn.qkv_proj"})
    for (const char* kind : {"grad", "weight", "x"})
      expected.push_back(std::string("layers.1.") + layer + "." + kind);
  EXPECT_EQ(names, expected);
}

TEST(Llama, SaysWhichOfItsSizesFp8ProductsDoNotTake) {
  ModelConfig config = tiny_llama_config();
  config.layers = 3;
  EXPECT_EQ(fp8_refusal(config, at::kCPU), "");
  config.mlp_width = 40;
  EXPECT_THAT(fp8_refusal(config, at::kCPU),
              ::testing::HasSubstr("take an MLP's width in multiples of 16, but it is 40"));
}

TEST(Llama, RefusesAShapeThatCannotBe) {
  const auto refused = [](auto change, const std::string& why) {
    ModelConfig config = tiny_llama_config();
    change(config);
    EXPECT_THROW(Llama{config}, UsageError);
    EXPECT_THROW_WITH(Llama{config}, why);
  };
  refused([](auto& c) { c.kv_heads = 3; }, "heads must be a multiple of kv_heads, but is 4 with 3");
  refused([](auto& c) { c.kv_heads = 0; }, "kv_heads must be > 0, but is 0");
  refused([](auto& c) { c.mlp_width = 0; }, "mlp_width must be > 0, but is 0");
  refused([](auto& c) { c.width = 36; }, "width / heads must be even");
  refused([](auto& c) { c.bias = true; }, "bias must be false in a Llama");
  refused([](auto& c) { c.norm_eps = 0; }, "norm_eps must be above 0");
  refused([](auto& c) { c.rope.base = -1; }, "rope.base must be above 0 and finite, but is -1");
  refused([](auto& c) { c.rope.scaling = kernels::Llama3Scaling{.factor = 0}; },
          "rope.scaling must have finite numbers above 0");
  refused([](auto& c) { c.rope.scaling = kernels::Llama3Scaling{.factor = INFINITY}; },
          "but has factor inf");
  refused([](auto& c) { c.rope.scaling = kernels::Llama3Scaling{.low_freq_factor = 4.0}; },
          "a high_freq_factor above its low_freq_factor");
  refused([](auto& c) { c.family = Family::kGPT2; }, "family must be Llama, but is GPT-2");
}

}  // namespace
}  // namespace mezzo::models
