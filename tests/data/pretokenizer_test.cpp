#include "mezzo/data/pretokenizer.h"

#include "mezzo/base/check.h"
#include "mezzo/data/regex_dialect.h"
#include "tests/data/golden_text.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> pieces_of(std::vector<std::string> patterns, std::string_view text) {
  PreTokenizer::Scratch scratch;
  std::vector<std::string_view> pieces;
  PreTokenizer(std::move(patterns)).split(text, scratch, pieces);
  return {pieces.begin(), pieces.end()};
}

std::vector<std::string> gpt2_pieces(std::string_view text) {
  return pieces_of({std::string(kGpt2Pattern)}, text);
}

TEST(PreTokenizer, CutsContractionsWordsNumbersAndSpaceAsGpt2Does) {
  EXPECT_THAT(gpt2_pieces("I'll pay  $30, then\n\n go"),
              ElementsAre("I", "'ll", " pay", " ", " $", "30", ",", " then", "\n\n", " go"));
}

TEST(PreTokenizer, PiecesAreTheTextAgain) {
  for (const char* pattern : {R"(\p{N})", R"(\p{L}+|\s+(?!\S))"}) {
    const std::string text = testing::golden_chunk(3);
    std::string joined;
    for (const auto& piece : pieces_of({pattern}, text)) {
      ASSERT_FALSE(piece.empty());
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(PreTokenizer, AMongolianVowelSeparatorIsNoSpace) {
  EXPECT_THAT(gpt2_pieces("x\u180Ey"), ElementsAre("x", "\u180E", "y"));
  EXPECT_THAT(gpt2_pieces("\u180E x"), ElementsAre("\u180E", " x"));
}

TEST(PreTokenizer, LettersOfUnicode15And16AreLetters) {
  EXPECT_THAT(gpt2_pieces("a\U000313A0\U00010D50b"), ElementsAre("a\U000313A0\U00010D50b"));
  EXPECT_THAT(gpt2_pieces("1\U00010D40"), ElementsAre("1\U00010D40"));
}

TEST(PreTokenizer, EachPatternCutsThePiecesOfTheOneBefore) {
  EXPECT_THAT(pieces_of({R"(\p{N})", R"( ?\p{L}+)"}, "ab12 c"), ElementsAre("ab", "1", "2", " c"));
}

TEST(PreTokenizer, AMegabyteWithoutABreakIsSplit) {
  EXPECT_EQ(gpt2_pieces(std::string(1 << 20, 'a')).size(), 1u);
  EXPECT_EQ(gpt2_pieces(std::string(1 << 20, ' ') + "a").size(), 2u);
}

TEST(PreTokenizer, RefusesPatternsThatItWouldReadDifferently) {
  for (const char* pattern :
       {"^a", "a$", ".", R"(\w+)", R"(\bx)", R"((a)\1)", "[a[b]]", "[a&&b]", "a{2}+", "a{,3}",
        "(?x:a)", R"([\S])", R"(\pL)", "[]a]", "[a", R"(a\)", R"(\h)", "(?<n>a)"}) {
    EXPECT_THROW_WITH(PreTokenizer({pattern}), "the splitting pattern uses") << pattern;
  }
}

TEST(PreTokenizer, RefusesBrokenPatternsAndThoseThatMatchNothing) {
  EXPECT_THROW_WITH(PreTokenizer({"(a"}), "must be a regular expression");
  EXPECT_THROW_WITH(PreTokenizer({R"(\p{Nonsense})"}), "must be a regular expression");
  EXPECT_THROW_WITH(PreTokenizer({"a*"}), "must not match the empty text");
}

TEST(PreTokenizer, AMatchWithoutEndIsAnError) {
  EXPECT_THROW_WITH(pieces_of({"(?:a+)+[bc]"}, std::string(5000, 'a')), "cannot split a text");
}

}  // namespace
}  // namespace mezzo::data
