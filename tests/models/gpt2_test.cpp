#include "mezzo/models/gpt2.h"

#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using testing::magnitude_of;

ModelConfig small_config() {
  return {.layers = 2, .heads = 4, .width = 64, .context = 8, .vocab_size = 128};
}

at::Tensor some_tokens(int64_t B, int64_t T, int64_t V) {
  return at::arange(B * T).mul(7).remainder(V).view({B, T});
}

TEST(GPT2, TheHeadIsTheTokenEmbedding) {
  GPT2 model(small_config());
  const auto parameters = model->named_parameters();
  EXPECT_FALSE(parameters.contains("lm_head.weight"));
  const auto features = at::ones({1, 64});
  const auto before = model->head(features);
  {
    const at::NoGradGuard no_grad;
    parameters["wte.weight"].mul_(2.0);
  }
  EXPECT_BIT_EQUAL(model->head(features), before * 2.0);
}

TEST(GPT2, ALaterTokenDoesNotChangeEarlierLogits) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const auto tokens = tiny_golden("tokens")[0];
  const auto before = model(tokens);
  for (const int64_t changed : {1, 7, 15}) {
    auto other = tokens.clone();
    other.select(1, changed).add_(1).remainder_(tiny_config().vocab_size);
    const auto after = model(other);
    EXPECT_BIT_EQUAL(after.slice(1, 0, changed), before.slice(1, 0, changed));
    EXPECT_GT(magnitude_of(after.select(1, changed) - before.select(1, changed)), 0.0);
  }
}

TEST(GPT2, AShorterSequenceHasTheLogitsOfItsBeginning) {
  GPT2 model = tiny_gpt2(at::kDouble);
  const auto tokens = tiny_golden("tokens")[0];
  const auto whole = model(tokens);
  const double tolerance =
      2 * tolerance_for(at::kDouble, forward_length(tiny_config(), 16), magnitude_of(whole));
  for (const int64_t T : {1, 5}) {
    EXPECT_CLOSE(model(tokens.slice(1, 0, T)), whole.slice(1, 0, T), tolerance);
  }
}

/// The standard deviation of n normal draws is itself off by sigma / sqrt(2 n); five of that.
void expect_std(const at::Tensor& weight, double sigma) {
  const auto n = static_cast<double>(weight.numel());
  EXPECT_NEAR(weight.std().item<double>(), sigma, 5 * sigma / std::sqrt(2 * n));
  EXPECT_NEAR(weight.mean().item<double>(), 0.0, 5 * sigma / std::sqrt(n));
}

TEST(GPT2, InitialisesAsThePaper) {
  const GPT2 model(small_config());
  for (const auto& parameter : model->named_parameters()) {
    SCOPED_TRACE(parameter.key());
    const auto& value = parameter.value();
    if (parameter.key().ends_with("c_proj.weight")) {
      expect_std(value, 0.02 / std::sqrt(2.0 * 2));
    } else if (value.dim() == 2) {
      expect_std(value, 0.02);
    } else {
      const double expected = parameter.key().ends_with("bias") ? 0.0 : 1.0;
      EXPECT_BIT_EQUAL(value, at::full_like(value, expected));
    }
  }
}

// Of normalised rows and weights of deviation 0.02 the logits have variance width * 0.02^2, which
// adds half of it to the loss, and the mean of N logits, those of the targets, strays by its root
// over N's: 4 deviations.
TEST(GPT2, StartsAtTheLossOfGuessing) {
  GPT2 model(small_config());
  const auto tokens = some_tokens(4, 8, 128);
  const double loss = model->loss(tokens, tokens.roll(1, 1)).item<double>();
  const double variance = 64 * 0.02 * 0.02;
  EXPECT_NEAR(loss, std::log(128.0) + variance / 2, 4 * std::sqrt(variance / (4 * 8)));
}

TEST(GPT2, OneSeedMeansOneModelWhateverElseDrawsNumbers) {
  at::manual_seed(1);
  const GPT2 first(small_config(), 5);
  at::manual_seed(2);
  at::rand({3});
  const GPT2 second(small_config(), 5), other(small_config(), 6);
  for (const auto& parameter : first->named_parameters()) {
    SCOPED_TRACE(parameter.key());
    const auto& value = parameter.value();
    EXPECT_BIT_EQUAL(second->named_parameters()[parameter.key()], value);
    if (value.dim() == 2) {
      EXPECT_FALSE(testing::is_bit_equal(other->named_parameters()[parameter.key()], value));
    }
  }
}

TEST(GPT2, ConstructionLeavesTheGlobalGeneratorAlone) {
  at::manual_seed(3);
  const auto expected = at::rand({4});
  at::manual_seed(3);
  const GPT2 model(small_config(), 5);
  EXPECT_BIT_EQUAL(at::rand({4}), expected);
}

TEST(GPT2, DropoutActsInTrainingOnly) {
  auto config = small_config();
  config.dropout = 0.5;
  GPT2 model(config);
  const auto tokens = some_tokens(1, 8, 128);
  EXPECT_FALSE(testing::is_bit_equal(model(tokens), model(tokens)));
  model->eval();
  EXPECT_BIT_EQUAL(model(tokens), model(tokens));
}

TEST(GPT2, WorksWithoutBiases) {
  auto config = small_config();
  config.bias = false;
  GPT2 model(config);
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_THAT(parameter.key(), ::testing::EndsWith("weight"));
  }
  EXPECT_EQ(model(some_tokens(2, 8, 128)).sizes(), (std::vector<int64_t>{2, 8, 128}));
}

TEST(GPT2, ComputesInTheDtypeOfItsParameters) {
  GPT2 model(small_config());
  model->to(at::kBFloat16);
  EXPECT_EQ(model(some_tokens(1, 8, 128)).scalar_type(), at::kBFloat16);
}

TEST(GPT2, IgnoresTargetsOfMinusHundred) {
  GPT2 model = tiny_gpt2(at::kDouble);
  const auto tokens = tiny_golden("tokens")[0], targets = tiny_golden("targets")[0];
  auto masked = targets.clone();
  masked.slice(0, 1).fill_(-100);  // only the first sequence counts
  const auto expected = model->loss(tokens.slice(0, 0, 1), targets.slice(0, 0, 1));
  EXPECT_CLOSE(
      model->loss(tokens, masked), expected,
      2 * tolerance_for(at::kDouble, loss_length(tiny_config(), 3, 16), magnitude_of(expected)));
}

TEST(GPT2, RefusesSequencesLongerThanTheContext) {
  GPT2 model(small_config());
  const auto tokens = some_tokens(1, 9, 128);
  EXPECT_THROW_WITH(model(tokens), "at most the context of 8 tokens long, but is 9");
  EXPECT_THROW_WITH(model->loss(tokens, tokens), "[LanguageModel.loss] a sequence must be at most");
}

TEST(GPT2, RefusesTokensOfAnotherShapeOrType) {
  GPT2 model(small_config());
  EXPECT_THROW_WITH(model(at::zeros({8}, at::kLong)), "shape [B, T], but have [8]");
  EXPECT_THROW_WITH(model(at::zeros({1, 8})), "tokens must be int64, but are Float");
  EXPECT_THROW_WITH(model(at::zeros({0, 8}, at::kLong)), "tokens must not be empty");
  const auto tokens = some_tokens(2, 8, 128);
  EXPECT_THROW_WITH(model->loss(tokens, tokens.slice(1, 1)), "[2, 8], but have [2, 7]");
  EXPECT_THROW_WITH(model->loss(tokens, tokens.to(at::kInt)), "targets must be int64, but are Int");
}

TEST(GPT2, RefusesAnInvalidConfiguration) {
  EXPECT_THROW(GPT2(ModelConfig{.heads = 5}), UsageError);
}

}  // namespace
}  // namespace mezzo::models
