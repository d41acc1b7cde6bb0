#include "mezzo/data/utf8.h"

#include "mezzo/data/byte_alphabet.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using namespace std::string_view_literals;

bool is_valid(std::string_view text) { return !find_invalid_utf8(text).has_value(); }

TEST(Utf8, EachStrayByteBecomesAReplacementCharacter) {
  EXPECT_EQ(to_well_formed_utf8("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_EQ(to_well_formed_utf8("a\xa8z\xf0\x9f"), "a\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Utf8, EveryCodePointButSurrogatesIsWellFormedAndReadsBack) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    std::string text;
    append_utf8(code, text);
    const bool is_surrogate = code >= 0xD800 && code < 0xE000;
    ASSERT_EQ(is_valid(text), !is_surrogate) << std::hex << static_cast<uint32_t>(code);
    if (is_surrogate) continue;
    std::string_view rest = text;
    ASSERT_EQ(take_code_point(rest), code);
    ASSERT_TRUE(rest.empty());
  }
}

TEST(Utf8, IllFormedSequencesAreFoundAtTheirFirstByte) {
  for (const std::string_view bad :
       {"\x80"sv, "\xBF"sv, "\xC0\x80"sv, "\xC1\xBF"sv, "\xC3"sv, "\xC3("sv, "\xE0\x9F\xBF"sv,
        "\xED\xA0\x80"sv, "\xE2\x82"sv, "\xE2(\xA1"sv, "\xF0\x8F\xBF\xBF"sv, "\xF4\x90\x80\x80"sv,
        "\xF0\x9F\x98"sv, "\xF5\x80\x80\x80"sv, "\xFF"sv}) {
    EXPECT_EQ(find_invalid_utf8("eight ascii " + std::string(bad)), 12u);
  }
}

TEST(Utf8, ACharacterCutAtTheEndIsUnfinishedByItsBytes) {
  EXPECT_EQ(unfinished_utf8_tail(""), 0u);
  EXPECT_EQ(unfinished_utf8_tail("abc"), 0u);
  EXPECT_EQ(unfinished_utf8_tail("a\xC3"), 1u);
  EXPECT_EQ(unfinished_utf8_tail("a\xC3\xA9"), 0u);
  EXPECT_EQ(unfinished_utf8_tail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(unfinished_utf8_tail("\xF0\x9F\x98\x80"), 0u);
}

TEST(ByteAlphabet, SpellsEveryByteAndReadsItBack) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  EXPECT_EQ(from_byte_alphabet(to_byte_alphabet(bytes)), bytes);
  EXPECT_EQ(to_byte_alphabet(" a\n"), "\u0120a\u010A");
}

TEST(ByteAlphabet, CharactersOutsideOfItStandForNoByte) {
  EXPECT_FALSE(from_byte_alphabet(" "));
  EXPECT_FALSE(from_byte_alphabet("\u0144"));
  EXPECT_FALSE(from_byte_alphabet("\u4eca"));
}

}  // namespace
}  // namespace mezzo::data
