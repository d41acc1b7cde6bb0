#include "mezzo/models/model_config.h"

#include <limits>

#include "mezzo/base/check.h"
#include "mezzo/models/make_model.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

TEST(ModelConfig, PresetsHaveTheirKnownParameterCounts) {
  // OpenAI's 124,439,808 has 50257 rows of 768; the padding adds 47.
  EXPECT_EQ(parameter_count(model_preset("gpt2")), 124'439'808 + 47 * 768);
  EXPECT_EQ(parameter_count(model_preset("gpt2-medium")), 354'823'168 + 47 * 1024);
  EXPECT_EQ(parameter_count(model_preset("gpt2-large")), 774'030'080 + 47 * 1280);
  EXPECT_EQ(parameter_count(model_preset("gpt2-xl")), 1'557'611'200 + 47 * 1600);
  EXPECT_EQ(parameter_count(model_preset("nano")), 4'273'664);
  EXPECT_EQ(parameter_count(model_preset("mini")), 13'891'584);
  // As Hugging Face counts them, a tied head once.
  EXPECT_EQ(parameter_count(model_preset("smollm-135m")), 134'515'008);
  EXPECT_EQ(parameter_count(model_preset("tinyllama-1.1b")), 1'100'048'384);
  EXPECT_EQ(parameter_count(model_preset("llama-3.2-1b")), 1'235'814'400);
}

int64_t built_count(const ModelConfig& config) {
  const LanguageModel model = make_language_model(config);
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) {
    count += parameter.numel();
  }
  return count;
}

TEST(ModelConfig, ParameterCountIsThatOfTheBuiltModel) {
  ModelConfig config{.layers = 3, .heads = 3, .width = 12, .context = 7, .vocab_size = 11};
  EXPECT_EQ(parameter_count(config), built_count(config));
  config.bias = false;
  EXPECT_EQ(parameter_count(config), built_count(config));
  config = model_preset("llama-nano");
  EXPECT_EQ(parameter_count(config), built_count(config));
  config.tied = false;
  EXPECT_EQ(parameter_count(config), built_count(config));
}

TEST(ModelConfig, EveryPresetIsValid) {
  for (const auto& name : model_preset_names()) {
    EXPECT_NO_THROW(validate(model_preset(name))) << name;
  }
}

TEST(ModelConfig, AnUnknownPresetListsTheKnown) {
  EXPECT_THROW(model_preset("gpt3"), UsageError);
  EXPECT_THROW_WITH(model_preset("gpt2-mediun"), "did you mean 'gpt2-medium'?");
  EXPECT_THROW_WITH(model_preset("bert"),
                    "known: nano, mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl");
}

ModelConfig with(int64_t ModelConfig::*key, int64_t value) {
  ModelConfig config;
  config.*key = value;
  return config;
}

TEST(ModelConfig, ValidationNamesKeyAndValue) {
  EXPECT_THROW(validate(with(&ModelConfig::layers, 0)), UsageError);
  EXPECT_THROW_WITH(validate(with(&ModelConfig::layers, 0)), "layers must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::heads, -1)), "heads must be > 0, but is -1");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::width, 0)), "width must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::context, 0)), "context must be > 0, but is 0");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::vocab_size, 0)), "vocab_size must be > 0");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::heads, 7)),
                    "width must be a multiple of heads, but is 768 with 7 heads. Hint: 763 or 770");
}

TEST(ModelConfig, AGPT2TakesNothingOfALlama) {
  EXPECT_THROW_WITH(validate(with(&ModelConfig::kv_heads, 2)),
                    "kv_heads must be left out of a GPT-2, but is 2");
  EXPECT_THROW_WITH(validate(with(&ModelConfig::mlp_width, 64)),
                    "mlp_width must be left out of a GPT-2, but is 64");
  ModelConfig config;
  config.tied = false;
  EXPECT_THROW_WITH(validate(config), "tied must be left out of a GPT-2, but is false");
  config = {};
  config.norm_eps = 1e-6;
  EXPECT_THROW_WITH(validate(config), "norm_eps must be left out of a GPT-2, but is 1e-06");
  config = {};
  config.rope.base = 5e5;
  EXPECT_THROW_WITH(validate(config), "rope must be left out of a GPT-2, but is given");
}

TEST(ModelConfig, DropoutIsAProbabilityBelowOne) {
  ModelConfig config;
  for (const double wrong : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    config.dropout = wrong;
    EXPECT_THROW_WITH(validate(config), "dropout must be in [0, 1)");
  }
}

}  // namespace
}  // namespace mezzo::models
