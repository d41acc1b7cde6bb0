#include "mezzo/models/hf_checkpoint.h"

#include <random>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

std::string golden_config(const std::string& folder) {
  return testing::read_file(MEZZO_TEST_DATA "/" + folder + "/config.json");
}

TEST(HfCheckpoint, TheFamilyIsThatOfConfigJson) {
  EXPECT_EQ(from_hf_config(golden_config("hf_gpt2"), "FILE").family, Family::kGPT2);
  EXPECT_EQ(from_hf_config(golden_config("hf_llama"), "FILE").family, Family::kLlama);
}

TEST(HfCheckpoint, AnotherSortOfModelIsRefused) {
  EXPECT_THROW(from_hf_config(R"({"model_type": "bert"})", "FILE"), UsageError);
  EXPECT_THROW_WITH(from_hf_config(R"({"model_type": "bert"})", "FILE"),
                    "[FILE] model_type must be \"gpt2\" or \"llama\", but is \"bert\"");
  EXPECT_THROW_WITH(from_hf_config("{}", "FILE"), "but is \"absent\"");
}

TEST(HfCheckpoint, TextThatIsNoJsonObjectIsRefused) {
  for (const char* text : {"", "{", "[]", "3", "\xff"})
    EXPECT_THROW_WITH(from_hf_config(text, "FILE"), "[FILE] must hold a JSON object");
}

/// True if the text is refused with an Error. If it is read, the shape can be built.
bool is_refused(const std::string& text) {
  try {
    const ModelConfig config = from_hf_config(text, "fuzz.json");
    EXPECT_NO_THROW(validate(config)) << text;
    return false;
  } catch (const Error&) {
    return true;
  }
}

TEST(HfCheckpoint, AnAlteredConfigIsRefusedOrReadAsAShapeThatCanBeBuilt) {
  constexpr unsigned kSeed = 20261128;
  constexpr int kRounds = 3000;
  const std::string alphabet = "\"{}[],:.-0123456789etfn";
  for (const char* folder : {"hf_gpt2", "hf_llama", "hf_llama3"}) {
    const std::string whole = golden_config(folder);
    std::mt19937 random(kSeed);
    int refused = 0;
    for (int round = 0; round < kRounds; ++round) {
      std::string altered = whole;
      for (unsigned edits = 1 + random() % 2; edits > 0; --edits)
        altered[random() % altered.size()] = alphabet[random() % alphabet.size()];
      refused += is_refused(altered) ? 1 : 0;
    }
    // Most edits break the syntax, some only a key that is not read.
    EXPECT_GT(refused, kRounds / 4) << folder << ", seed " << kSeed;
    EXPECT_LT(refused, kRounds) << folder << ", seed " << kSeed;
  }
}

}  // namespace
}  // namespace mezzo::models
