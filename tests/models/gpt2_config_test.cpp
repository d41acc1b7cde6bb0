#include "mezzo/models/gpt2_config.h"

#include <limits>

#include "mezzo/base/check.h"
#include "mezzo/models/gpt2.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

TEST(GPT2Config, PresetsHaveTheirKnownParameterCounts) {
  // OpenAI's 124,439,808 has 50257 rows of 768; the padding adds 47.
  EXPECT_EQ(parameter_count(gpt2_preset("gpt2")), 124'439'808 + 47 * 768);
  EXPECT_EQ(parameter_count(gpt2_preset("gpt2-medium")), 354'823'168 + 47 * 1024);
  EXPECT_EQ(parameter_count(gpt2_preset("gpt2-large")), 774'030'080 + 47 * 1280);
  EXPECT_EQ(parameter_count(gpt2_preset("gpt2-xl")), 1'557'611'200 + 47 * 1600);
  EXPECT_EQ(parameter_count(gpt2_preset("nano")), 4'273'664);
  EXPECT_EQ(parameter_count(gpt2_preset("mini")), 13'891'584);
}

int64_t built_count(const GPT2Config& config) {
  const GPT2 model(config);
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) {
    count += parameter.numel();
  }
  return count;
}

TEST(GPT2Config, ParameterCountIsThatOfTheBuiltModel) {
  GPT2Config config{.layers = 3, .heads = 3, .width = 12, .context = 7, .vocab_size = 11};
  EXPECT_EQ(parameter_count(config), built_count(config));
  config.bias = false;
  EXPECT_EQ(parameter_count(config), built_count(config));
}

TEST(GPT2Config, EveryPresetIsValid) {
  for (const auto& name : gpt2_preset_names()) {
    EXPECT_NO_THROW(validate(gpt2_preset(name))) << name;
  }
}

TEST(GPT2Config, AnUnknownPresetListsTheKnown) {
  EXPECT_THROW(gpt2_preset("gpt3"), UsageError);
  EXPECT_THROW_WITH(gpt2_preset("gpt2-mediun"), "did you mean 'gpt2-medium'?");
  EXPECT_THROW_WITH(gpt2_preset("bert"),
                    "known: nano, mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl");
}

GPT2Config with(int64_t GPT2Config::*key, int64_t value) {
  GPT2Config config;
  config.*key = value;
  return config;
}

TEST(GPT2Config, ValidationNamesKeyAndValue) {
  EXPECT_THROW(validate(with(&GPT2Config::layers, 0)), UsageError);
  EXPECT_THROW_WITH(validate(with(&GPT2Config::layers, 0)), "layers must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&GPT2Config::heads, -1)), "heads must be > 0, but is -1");
  EXPECT_THROW_WITH(validate(with(&GPT2Config::width, 0)), "width must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&GPT2Config::context, 0)), "context must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&GPT2Config::vocab_size, 0)), "vocab_size must be > 0");
  EXPECT_THROW_WITH(validate(with(&GPT2Config::heads, 7)),
                    "width must be a multiple of heads, but is 768 with 7 heads. Hint: 763 or 770");
}

TEST(GPT2Config, DropoutIsAProbabilityBelowOne) {
  GPT2Config config;
  for (const double wrong : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    config.dropout = wrong;
    EXPECT_THROW_WITH(validate(config), "dropout must be in [0, 1)");
  }
}

}  // namespace
}  // namespace mezzo::models
