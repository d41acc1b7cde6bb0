#include "mezzo/data/bpe_trainer.h"

#include "mezzo/base/check.h"
#include "mezzo/data/byte_alphabet.h"
#include "mezzo/data/word_table.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> learned(const std::vector<WordCount>& words, int64_t count) {
  const auto vocabulary = train_bpe(words, 257 + count, "<e>");
  return {vocabulary.tokens.begin() + 257, vocabulary.tokens.end()};
}

TEST(BpeTrainer, BeginsWithTheFirstTokenAndTheBytesInTheirOrder) {
  const auto tokens = train_bpe({}, 300, "<e>").tokens;
  ASSERT_EQ(tokens.size(), 257u);
  EXPECT_EQ(tokens[0], "<e>");
  EXPECT_EQ(tokens[1], "!");
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(tokens[static_cast<size_t>(i) + 1], std::string(1, bytes_in_alphabet_order()[i]));
  }
}

TEST(BpeTrainer, MergesTheMostFrequentPairFirst) {
  EXPECT_THAT(learned({{"ab", 2}, {"cd", 3}}, 1), ElementsAre("cd"));
}

TEST(BpeTrainer, AmongEquallyFrequentPairsTakesTheSmallestIds) {
  EXPECT_THAT(learned({{"cd", 3}, {"ab", 3}, {"ac", 3}}, 3), ElementsAre("ab", "ac", "cd"));
}

TEST(BpeTrainer, CountsAgainWhatAMergeLeaves) {
  // After "ab", "bc" is left once in "bc", and "abc" stands four times.
  EXPECT_THAT(learned({{"abc", 4}, {"ab", 2}, {"bc", 1}}, 3), ElementsAre("ab", "abc", "bc"));
}

TEST(BpeTrainer, MergesOverlappingPairsFromTheLeft) {
  const auto vocabulary = train_bpe({{"aaaaa", 1}}, 260, "<e>");
  EXPECT_EQ(vocabulary.tokens[257], "aa");
  EXPECT_EQ(vocabulary.tokens[258], "aaa");  // aa aa a: of (a a)a and (aa)(aa) the smaller ids
}

TEST(BpeTrainer, TellsOfItsProgress) {
  std::vector<WordCount> words;
  for (int i = 0; i < 400; ++i) words.push_back({fmt::format("{:03}", i), 1});
  std::vector<int64_t> seen;
  train_bpe(words, 600, "<e>", [&](int64_t tokens) { seen.push_back(tokens); });
  EXPECT_THAT(seen, ElementsAre(512));
}

TEST(WordTable, NumbersWordsAsTheyComeAndKnowsThemAgain) {
  WordTable table;
  for (int round = 0; round < 2; ++round) {
    for (uint32_t i = 0; i < 5000; ++i) {
      const auto [index, is_new] = table.insert(fmt::format("word {}", i));
      ASSERT_EQ(index, i);
      ASSERT_EQ(is_new, round == 0);
    }
  }
  EXPECT_EQ(table.word(4321), "word 4321");
  table.clear();
  EXPECT_TRUE(table.insert("word 1").is_new);
}

}  // namespace
}  // namespace mezzo::data
