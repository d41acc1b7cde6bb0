#include "mezzo/data/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/data/train_tokenizer.h"
#include "tests/data/golden_text.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::golden_path;

json golden(const char* name) { return json::parse(mezzo::testing::read_file(golden_path(name))); }

// `at` is a JSON pointer.
Tokenizer with(const char* at, const json& value, const char* name = "gpt2_kind.json") {
  json root = golden(name);
  root[json::json_pointer(at)] = value;
  return Tokenizer::parse(root.dump(), "changed.json");
}

TEST(TokenizerJson, WhatMezzoDoesNotDoIsRefusedByFieldAndValue) {
  EXPECT_THROW_WITH(
      with("/normalizer", {{"type", "NFC"}}),
      R"(changed.json: normalizer must be null, the only kind Mezzo reads, but is {"type":"NFC"})");
  EXPECT_THROW_WITH(with("/truncation", {{"max_length", 8}}), "truncation must be null");
  EXPECT_THROW_WITH(with("/padding", json::object()), "padding must be null");
  EXPECT_THROW_WITH(with("/model/type", "Unigram"),
                    R"(model.type must be BPE, the only kind Mezzo reads, but is "Unigram")");
  EXPECT_THROW_WITH(with("/model/dropout", 0.1), "model.dropout must be null, but is 0.1");
  EXPECT_THROW_WITH(with("/model/end_of_word_suffix", "</w>"), R"(but is "</w>")");
  EXPECT_THROW_WITH(with("/model/continuing_subword_prefix", "##"), R"(but is "##")");
  EXPECT_THROW_WITH(with("/pre_tokenizer/type", "Metaspace"), "pre_tokenizer must be ByteLevel");
  EXPECT_THROW_WITH(with("/pre_tokenizer/add_prefix_space", true),
                    "add_prefix_space must be false");
  EXPECT_THROW_WITH(with("/pre_tokenizer", nullptr), "pre_tokenizer must be ByteLevel");
  EXPECT_THROW_WITH(with("/decoder/type", "Metaspace"), "decoder must be null or ByteLevel");
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    EXPECT_THROW_WITH(with(fmt::format("/added_tokens/0/{}", key).c_str(), true),
                      fmt::format("{} of an added token must be false", key));
  }
}

TEST(TokenizerJson, SequencesAreReadPartByPart) {
  const char* llama = "llama3_kind.json";
  const char* split = "/pre_tokenizer/pretokenizers/0";
  EXPECT_THROW_WITH(with("/pre_tokenizer/pretokenizers/0/behavior", "Removed", llama),
                    R"(behavior must be Isolated)");
  EXPECT_THROW_WITH(with("/pre_tokenizer/pretokenizers/0/invert", true, llama),
                    "invert must be false");
  EXPECT_THROW_WITH(with("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, llama),
                    "pattern must be a Regex");
  EXPECT_THROW_WITH(with("/pre_tokenizer/pretokenizers", json::array(), llama),
                    "pre_tokenizer must hold a ByteLevel");
  const json byte_level = golden(llama)["pre_tokenizer"]["pretokenizers"][1];
  EXPECT_THROW_WITH(with(split, byte_level, llama), "must end with ByteLevel, but this follows");
  const Tokenizer digits = with(split, {{"type", "Digits"}, {"individual_digits", true}}, llama);
  EXPECT_EQ(digits.encode("12").size(), 2u);
}

TEST(TokenizerJson, BrokenVocabulariesAreRefusedByTheirToken) {
  json root = golden("gpt2_kind.json");
  root["model"]["vocab"]["twice"] = 5;
  EXPECT_THROW_WITH(Tokenizer::parse(root.dump()), "id 5 must belong to one token");
  EXPECT_THROW_WITH(with("/model/vocab/x", -1), "must be a token id");
  EXPECT_THROW_WITH(with("/model/vocab/x", 1e9), "must be a token id");
  EXPECT_THROW_WITH(with("/model/merges/3", "a b c"), R"(merge 3 must be "a b" or ["a", "b"])");
  EXPECT_THROW_WITH(with("/model/merges/3", {"a", "zzz"}), "merge 3 uses the token 'zzz'");
  EXPECT_THROW_WITH(with("/added_tokens/0/id", 7),
                    "must have its id in the vocabulary, 0, but has 7");
  EXPECT_THROW_WITH(Tokenizer::parse("{"), "must be JSON of a tokenizer");
  EXPECT_THROW_WITH(Tokenizer::parse("[]"), "must be an object");
}

TEST(Tokenizer, AByteWithoutATokenIsAnErrorOfTheTextThatHasIt) {
  json root = golden("gpt2_kind.json");
  root["model"]["vocab"].erase("\u00FF");  // spells 0xFF
  root["model"]["vocab"].erase("\u0107");  // spells 0x07
  const Tokenizer tokenizer = Tokenizer::parse(root.dump());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a text")), "a text");
  EXPECT_THROW_WITH(tokenizer.encode("a b\x07 c"), "has byte 0x07 in");
}

TEST(Tokenizer, ErrorsOfEncodeAndDecodeNameThePlace) {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("gpt2_kind.json"));
  EXPECT_THROW_WITH(tokenizer.encode("abc\xFF"), "must be UTF-8, but byte 3 (0xff) is not");
  const std::vector<int32_t> ids = {1, 1200};
  EXPECT_THROW_WITH(tokenizer.decode(ids), "id 1200 at position 1 is not");
  const std::vector<int32_t> negative = {-1};
  EXPECT_THROW_WITH(tokenizer.decode(negative), "id -1 at position 0 is not");
}

TEST(Tokenizer, HasAddedTokensAndOneThatEndsADocument) {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("llama3_kind.json"));
  EXPECT_EQ(tokenizer.vocab_size(), 1210);
  EXPECT_THAT(tokenizer.encode("!<|begin_of_text|>"), ElementsAre(0, 1203));
  EXPECT_THAT(tokenizer.encode("<|endoftext|>"), ElementsAre(tokenizer.end_of_text().value()));
  EXPECT_THAT(tokenizer.encode(""), ElementsAre());
}

TEST(Tokenizer, AnIdWithoutATokenIsCountedButNotDecoded) {
  json root = golden("llama3_kind.json");
  root["added_tokens"][6]["id"] = 1300;
  const Tokenizer tokenizer = Tokenizer::parse(root.dump());
  EXPECT_EQ(tokenizer.vocab_size(), 1301);
  const std::vector<int32_t> gap = {1250};
  EXPECT_THAT(tokenizer.gaps(), ::testing::Contains(1250));
  EXPECT_THROW_WITH(tokenizer.decode(gap), "id 1250 at position 0 is not");
}

TEST(Tokenizer, ItsHashFollowsWhatItEncodesNotHowItIsWritten) {
  const uint64_t hash = Tokenizer::load(golden_path("gpt2_kind.json")).hash();
  EXPECT_EQ(Tokenizer::parse(golden("gpt2_kind.json").dump(4)).hash(), hash);
  EXPECT_EQ(with("/model/byte_fallback", true).hash(), hash);
  EXPECT_NE(with("/model/ignore_merges", true).hash(), hash);
  EXPECT_NE(with("/pre_tokenizer/use_regex", false).hash(), hash);
  json root = golden("gpt2_kind.json");
  std::swap(root["model"]["merges"][0], root["model"]["merges"][1]);
  EXPECT_NE(Tokenizer::parse(root.dump()).hash(), hash);
}

TEST(Tokenizer, APieceOfAMegabyteTakesNoMinute) {
  const Tokenizer tokenizer = Tokenizer::load(golden_path("gpt2_kind.json"));
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

}  // namespace
}  // namespace mezzo::data
