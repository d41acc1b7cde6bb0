#include "mezzo/train/rope_scaling.h"

#include "mezzo/base/check.h"
#include "mezzo/train/run_config.h"
#include "mezzo/train/run_parts.h"
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

TEST(ModelShape, IsWrittenIntoAConfigurationAndReadFromIt) {
  for (const char* name : {"gpt2-medium", "tinyllama-1.1b", "llama-3.2-1b"}) {
    const models::ModelConfig shape = models::model_preset(name);
    RunConfig config;
    config.model = shape.family == models::Family::kGPT2 ? "nano" : "llama-nano";
    set_shape(config, shape);
    EXPECT_EQ(models::parameter_count(model_config(config)), models::parameter_count(shape));
    EXPECT_EQ(model_config(config).rope.base, shape.rope.base);
    EXPECT_EQ(model_config(config).rope.scaling.has_value(), shape.rope.scaling.has_value());
  }
}

}  // namespace
}  // namespace mezzo::train
