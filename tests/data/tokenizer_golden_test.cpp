// Ids against the tokenizers package; the files are made by
// tests/reference/make_tokenizer_goldens.py.
#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "mezzo/data/encoder.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/data/tokenizer_json.h"
#include "mezzo/data/train_tokenizer.h"
#include "tests/data/golden_text.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using testing::golden_chunk;
using testing::golden_chunks;
using testing::golden_fragments;
using testing::golden_path;
using testing::kChunks;

std::string fnv1a(const std::vector<int32_t>& ids) {
  uint64_t value = 0xCBF29CE484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<uint32_t>(id) >> shift) & 0xFF)) * 0x100000001B3u;
    }
  }
  return fmt::format("{:016x}", value);
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  std::string name = GetParam();
  Tokenizer tokenizer = Tokenizer::load(golden_path(name + ".json"));
  nlohmann::json expected =
      nlohmann::json::parse(mezzo::testing::read_file(golden_path("encodings.json")))[name];
};

TEST_P(TokenizerGolden, EveryFragmentHasThePackagesIds) {
  const auto& fragments = golden_fragments();
  ASSERT_GT(fragments.size(), 80u);
  ASSERT_EQ(expected["fragments"].size(), fragments.size());
  for (size_t i = 0; i < fragments.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(fragments[i]), expected["fragments"][i].get<std::vector<int32_t>>())
        << "fragment " << i << ": " << fragments[i];
  }
}

TEST_P(TokenizerGolden, AMegabyteOfMixedTextHasThePackagesIds) {
  Encoder encoder(tokenizer);
  ASSERT_EQ(expected["chunks"].size(), static_cast<size_t>(kChunks));
  for (int i = 0; i < kChunks; ++i) {
    const auto& chunk = expected["chunks"][static_cast<size_t>(i)];
    std::vector<int32_t> ids;
    encoder.encode(golden_chunk(i), ids);
    EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.begin() + 8),
              chunk["first"].get<std::vector<int32_t>>())
        << "chunk " << i;
    EXPECT_EQ(ids.size(), chunk["count"].get<size_t>()) << "chunk " << i;
    EXPECT_EQ(fnv1a(ids), chunk["fnv1a"].get<std::string>()) << "chunk " << i;
  }
}

TEST_P(TokenizerGolden, DecodingAnEncodingGivesTheText) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = testing::random_text(seed, static_cast<int>(seed));
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << "seed " << seed;
  }
  for (int i = 0; i < kChunks; ++i) {
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(golden_chunk(i))), golden_chunk(i));
  }
}

TEST_P(TokenizerGolden, SavesTheBytesItLoaded) {
  const mezzo::testing::TempDir folder;
  tokenizer.save(folder / "copy.json");
  EXPECT_EQ(mezzo::testing::read_file(folder / "copy.json"),
            mezzo::testing::read_file(golden_path(name + ".json")));
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGolden, ::testing::Values("gpt2_kind", "llama3_kind"),
                         [](const auto& kind) { return std::string(kind.param); });

TEST(TrainTokenizer, LearnsThePackagesVocabularyAndMerges) {
  const auto expected = parse_tokenizer_json(
      mezzo::testing::read_file(golden_path("gpt2_kind.json")), "gpt2_kind.json");
  const mezzo::testing::TempDir folder;
  train_tokenizer(golden_chunks(), {.vocab_size = 1200}).save(folder / "tokenizer.json");
  const auto trained =
      parse_tokenizer_json(mezzo::testing::read_file(folder / "tokenizer.json"), "trained");
  EXPECT_EQ(trained.vocabulary, expected.vocabulary);
  ASSERT_EQ(trained.merges.size(), expected.merges.size());
  for (size_t rank = 0; rank < trained.merges.size(); ++rank) {
    ASSERT_EQ(trained.merges[rank].pair, expected.merges[rank].pair) << "rank " << rank;
  }
  EXPECT_EQ(trained.patterns, expected.patterns);
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").hash(),
            Tokenizer::load(golden_path("gpt2_kind.json")).hash());
}

TEST(TrainTokenizer, GivesTheSameForAnyNumberOfThreads) {
  const auto texts = golden_chunks();
  const uint64_t alone = train_tokenizer(texts, {.vocab_size = 600, .threads = 1}).hash();
  for (const int threads : {2, 3, 8}) {
    EXPECT_EQ(train_tokenizer(texts, {.vocab_size = 600, .threads = threads}).hash(), alone);
  }
}

TEST(TrainTokenizer, RefusesTextThatIsNotUtf8AndVocabulariesBelowTheBytes) {
  const std::vector<std::string> bad = {"fine", "not\xFF"};
  EXPECT_THROW_WITH(train_tokenizer(bad, {.vocab_size = 300}), "text 1 must be UTF-8, but byte 3");
  const std::vector<std::string> good = {"fine"};
  EXPECT_THROW_WITH(train_tokenizer(good, {.vocab_size = 256}), "at least 257 tokens");
}

TEST(TrainTokenizer, StopsWhereNothingIsLeftToMerge) {
  const std::vector<std::string> texts = {"abab"};
  EXPECT_EQ(train_tokenizer(texts, {.vocab_size = 1000}).vocab_size(), 259);  // ab, abab
}

}  // namespace
}  // namespace mezzo::data
