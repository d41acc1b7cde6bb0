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

TEST(GPT2, WorksWithoutBiases) {
  auto config = small_config();
  config.bias = false;
  GPT2 model(config);
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_THAT(parameter.key(), ::testing::EndsWith("weight"));
  }
  EXPECT_EQ(model(some_tokens(2, 8, 128)).sizes(), (std::vector<int64_t>{2, 8, 128}));
}

TEST(GPT2, RefusesAnInvalidConfiguration) {
  EXPECT_THROW(GPT2(ModelConfig{.heads = 5}), UsageError);
}

}  // namespace
}  // namespace mezzo::models
