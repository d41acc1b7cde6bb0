#include "mezzo/train/rope_scaling.h"

#include "mezzo/base/check.h"
#include "mezzo/train/run_config.h"
#include "mezzo/train/run_parts.h"
#include "tests/models/config_fields.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

TEST(RopeScaling, IsReadAsItIsWritten) {
  for (const std::string text : {"none", "32,1,4,8192", "8,0.5,4.25,16"}) {
    const auto scaling = rope_scaling_of(text);
    ASSERT_TRUE(scaling.has_value()) << text;
    EXPECT_EQ(rope_scaling_text(*scaling), text);
  }
  const auto llama3 = rope_scaling_of("32,1,4,8192").value().value();
  EXPECT_EQ(llama3.factor, 32);
  EXPECT_EQ(llama3.low_freq_factor, 1);
  EXPECT_EQ(llama3.high_freq_factor, 4);
  EXPECT_EQ(llama3.original_context, 8192);
}

TEST(RopeScaling, TakesNoOtherText) {
  for (const char* text : {"", "None", "32", "32,1,4", "32,1,4,8192,5", "32,1,4,", "a,1,4,8192",
                           "0,1,4,8192", "32,4,4,8192", "32,1,4,0.5", "32,1,4,1e300", "inf,1,4,8",
                           "nan,1,4,8", "32, 1,4,8192", "-1,1,4,8192"})
    EXPECT_FALSE(rope_scaling_of(text).has_value()) << text;
}

TEST(RopeScaling, IsAnOptionOfALlamasRun) {
  const auto resolved = [](std::map<std::string, std::string> values) {
    return model_config(resolve_config({std::move(values)}));
  };
  const auto none = resolved({{"model", "llama-3.2-1b"}, {"rope-scaling", "none"}});
  EXPECT_FALSE(none.rope.scaling.has_value());
  EXPECT_EQ(resolved({{"model", "llama-3.2-1b"}}).rope.scaling->factor, 32);
  EXPECT_EQ(resolved({{"model", "llama-nano"}, {"rope-scaling", "2,1,4,128"}}).rope.scaling->factor,
            2);
  EXPECT_THROW_WITH(resolved({{"model", "llama-nano"}, {"rope-scaling", "2"}}),
                    "rope-scaling must be none, or Llama 3's FACTOR,LOW,HIGH,ORIGINAL_CONTEXT");
  EXPECT_THROW_WITH(resolved({{"rope-scaling", "2,1,4,128"}}), "rope must be left out of a GPT-2");
}

/// Every preset, and of each family one with what no preset has.
std::vector<models::ModelConfig> shapes() {
  std::vector<models::ModelConfig> all;
  for (const std::string& name : models::model_preset_names())
    all.push_back(models::model_preset(name));
  models::ModelConfig gpt2 = models::model_preset("gpt2"),
                      llama = models::model_preset("llama-3.2-1b");
  gpt2.bias = false;
  llama.norm_eps = 1.25e-6;
  llama.rope = {
      .base = 12345.678,
      .scaling = kernels::Llama3Scaling{
          .factor = 2.1, .low_freq_factor = 0.7, .high_freq_factor = 3.3, .original_context = 96}};
  all.insert(all.end(), {gpt2, llama});
  return all;
}

TEST(ModelShape, IsWrittenIntoAConfigurationAndReadFromItWhateverThePreset) {
  for (const std::string& preset : models::model_preset_names()) {
    for (const models::ModelConfig& shape : shapes()) {
      if (shape.family != models::model_preset(preset).family) continue;
      RunConfig config;
      config.model = preset;
      set_shape(config, shape);
      const RunConfig read = config_from_toml(to_toml(config), "config.toml");
      EXPECT_EQ(models::fields(model_config(read)), models::fields(shape)) << preset;
    }
  }
}

}  // namespace
}  // namespace mezzo::train
