// Broken TOML gives a UsageError or a valid configuration, never a crash or another exception.
#include <random>

#include "mezzo/base/check.h"
#include "mezzo/train/run_config.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

constexpr unsigned kSeed = 20240612;

/// True if the text is refused with a UsageError. If it is read, the result is checked.
bool is_refused(const std::string& toml) {
  try {
    const RunConfig config = config_from_toml(toml, "fuzz.toml");
    EXPECT_EQ(config_from_toml(to_toml(config), "again"), config) << toml;
    return false;
  } catch (const UsageError&) {
    return true;
  }
}

TEST(RunConfigFuzz, RandomBytesNeverCrash) {
  std::mt19937 random(kSeed);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes(1 + random() % 100, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    refused += is_refused(bytes) ? 1 : 0;
  }
  EXPECT_GT(refused, 1900) << "seed " << kSeed;
}

TEST(RunConfigFuzz, MutatedConfigurationsNeverCrash) {
  const std::string whole = to_toml(RunConfig{});
  const std::string alphabet = "=\"'[]{}.,#-_+0123456789eEnaif\n\\ \xc3\x01";
  std::mt19937 random(kSeed);
  int refused = 0;
  constexpr int kRounds = 5000;
  for (int round = 0; round < kRounds; ++round) {
    std::string edited = whole;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % edited.size();
      const char with = alphabet[random() % alphabet.size()];
      switch (random() % 4) {
        case 0:
          edited[at] = with;
          break;
        case 1:
          edited.insert(at, 1, with);
          break;
        case 2:
          edited.erase(at, 1);
          break;
        default:
          edited.insert(random() % edited.size(), edited.substr(at, random() % 40));
      }
    }
    refused += is_refused(edited) ? 1 : 0;
  }
  // Both happen: an edit in a comment is harmless, one in a key is not.
  EXPECT_GT(refused, kRounds / 10) << "seed " << kSeed;
  EXPECT_LT(refused, kRounds * 9 / 10) << "seed " << kSeed;
}

TEST(RunConfigFuzz, DeepNestingIsRefused) {
  EXPECT_TRUE(is_refused("steps = " + std::string(100'000, '[')));
  EXPECT_TRUE(is_refused(std::string(100'000, '[')));
}

}  // namespace
}  // namespace mezzo::train
