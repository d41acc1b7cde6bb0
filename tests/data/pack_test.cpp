#include "mezzo/data/pack.h"

#include <chrono>
#include <set>

#include "mezzo/base/check.h"
#include "mezzo/data/packed_data.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using mezzo::testing::read_file;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;

std::string text_of_file(int i) {
  return fmt::format("Document number {}.\nIts words are words {} times {}.\n", i, i * i, i % 7);
}

void write_corpus(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (int i = 0; i < 100; ++i) write_file(folder / fmt::format("{:03}.txt", i), text_of_file(i));
}

std::string decoded(const Tokenizer& tokenizer, const TokenView& view) {
  std::vector<int64_t> tokens(static_cast<size_t>(view.size()));
  view.read(0, tokens);
  return tokenizer.decode(std::vector<int32_t>(tokens.begin(), tokens.end()));
}

std::multiset<std::string> documents_in(std::string text) {
  const std::string end = "<|endoftext|>";
  std::multiset<std::string> documents;
  while (!text.empty()) {
    const size_t at = text.find(end);
    if (at == text.npos) throw Error("the last document has no end");
    documents.insert(text.substr(0, at));
    text.erase(0, at + end.size());
  }
  return documents;
}

class PackTest : public ::testing::Test {
 protected:
  PackTest() { write_corpus(corpus); }
  PackStatistics pack_it() {
    return pack(corpus, folder / "tokenizer.json", folder / "data.tokens", options);
  }
  TempDir folder;
  std::filesystem::path corpus = folder / "corpus";
  PackOptions options = {.vocab_size = 300};
};

TEST_F(PackTest, IfItIsStoppedNoTokenizerIsLeftForTheNextCorpus) {
  options.progress = [](std::string_view phase, double) {
    if (phase == "encode") throw Error("stopped");
  };
  EXPECT_THROW_WITH(pack_it(), "stopped");
  EXPECT_FALSE(std::filesystem::exists(folder / "tokenizer.json"));
}

TEST_F(PackTest, EveryDocumentIsInOneSplitWholeAndEnded) {
  const auto stats = pack_it();
  const auto tokenizer = Tokenizer::load(folder / "tokenizer.json");
  const auto file = TokenFile::open(folder / "data.tokens");
  auto train = documents_in(decoded(tokenizer, file.split(Split::train)));
  auto held_out = documents_in(decoded(tokenizer, file.split(Split::held_out)));
  EXPECT_EQ(train.size(), 100u - held_out.size());
  EXPECT_GE(held_out.size(), 4u);
  EXPECT_LE(held_out.size(), 6u);
  train.merge(held_out);
  std::multiset<std::string> expected;
  for (int i = 0; i < 100; ++i) expected.insert(text_of_file(i));
  EXPECT_EQ(train, expected);

  EXPECT_EQ(stats.files, 100);
  EXPECT_EQ(stats.documents, 100);
  EXPECT_EQ(stats.train_tokens, file.split(Split::train).size());
  EXPECT_EQ(stats.held_out_tokens, file.split(Split::held_out).size());
  EXPECT_GT(stats.bytes_per_token(), 1.0);
  EXPECT_EQ(file.vocab_hash(), tokenizer.hash());
  EXPECT_EQ(file.vocab_size(), 300);
}

TEST_F(PackTest, TheBytesDoNotDependOnTheNumberOfThreads) {
  std::string tokenizer;
  std::string tokens;
  for (const int threads : {1, 2, 5}) {
    options.corpus.threads = threads;
    std::filesystem::remove(folder / "tokenizer.json");
    pack_it();
    if (threads == 1) {
      tokenizer = read_file(folder / "tokenizer.json");
      tokens = read_file(folder / "data.tokens");
    }
    EXPECT_EQ(read_file(folder / "tokenizer.json"), tokenizer);
    EXPECT_EQ(read_file(folder / "data.tokens"), tokens);
  }
}

TEST_F(PackTest, ATokenizerThatIsThereIsUsed) {
  pack_it();
  const std::string before = read_file(folder / "tokenizer.json");
  options.vocab_size = 400;
  pack_it();
  EXPECT_EQ(read_file(folder / "tokenizer.json"), before);
}

TEST_F(PackTest, ATokenizerThatIsGivenIsUsedAndKeptBesideTheTokens) {
  pack_it();
  const auto given = Tokenizer::load(folder / "tokenizer.json");
  const auto cache = folder / "cache";
  options.vocab_size = 400;
  const auto trained = open_or_pack(corpus, cache, options);
  options.tokenizer = given;
  const auto packed = open_or_pack(corpus, cache, options);
  EXPECT_TRUE(packed.statistics);
  EXPECT_EQ(packed.tokenizer.hash(), given.hash());
  EXPECT_NE(trained.tokenizer.hash(), given.hash());
  EXPECT_EQ(read_file(packed.folder / "tokenizer.json"), read_file(folder / "tokenizer.json"));
  options.vocab_size = 500;
  EXPECT_FALSE(open_or_pack(corpus, cache, options).statistics) << "none is trained to that size";
}

TEST_F(PackTest, ProgressGoesFromZeroToOneInEachPhase) {
  std::vector<std::string> phases;
  double last = 1;
  options.progress = [&](std::string_view phase, double fraction) {
    if (phases.empty() || phases.back() != phase) {
      EXPECT_EQ(last, 1);
      EXPECT_EQ(fraction, 0);
      phases.emplace_back(phase);
      last = 0;
    }
    EXPECT_GE(fraction, last);
    last = fraction;
  };
  pack_it();
  EXPECT_THAT(phases, ::testing::ElementsAre("scan", "train tokenizer", "encode"));
  EXPECT_EQ(last, 1);
}

TEST_F(PackTest, TooLittleTextIsAnError) {
  write_file(folder / "small.txt", "too little");
  EXPECT_THROW_WITH(pack(folder / "small.txt", folder / "t.json", folder / "t.tokens", options),
                    "must hold at least 2 documents");
  options.held_out_fraction = 1;
  EXPECT_THROW_WITH(pack_it(), "held-out must lie between 0 and 1");
}

TEST_F(PackTest, TheCacheIsUsedUntilTheCorpusOrTheVocabularyChanges) {
  const auto cache = folder / "cache";
  const auto first = open_or_pack(corpus, cache, options);
  EXPECT_TRUE(first.statistics);
  EXPECT_TRUE(first.folder.filename().string().starts_with("corpus-"));
  const auto again = open_or_pack(corpus, cache, options);
  EXPECT_FALSE(again.statistics);
  EXPECT_EQ(again.tokens.vocab_hash(), first.tokenizer.hash());
  write_file(corpus / "000.txt",
             "changed and longer than it was before, so that the size differs\n");
  EXPECT_TRUE(open_or_pack(corpus, cache, options).statistics);
  options.vocab_size = 310;
  EXPECT_TRUE(open_or_pack(corpus, cache, options).statistics);
  EXPECT_FALSE(open_or_pack(corpus, cache, options).statistics);
}

TEST_F(PackTest, WhatAnotherProcessHasPackedMeanwhileIsTaken) {
  const auto cache = folder / "cache";
  const auto others = open_or_pack(corpus, folder / "other", options).folder;
  options.progress = [&](std::string_view phase, double fraction) {
    if (phase == "encode" && fraction == 1)
      std::filesystem::copy(others, cache / others.filename().string(),
                            std::filesystem::copy_options::recursive);
  };
  const auto packed = open_or_pack(corpus, cache, options);
  EXPECT_FALSE(packed.statistics);
  EXPECT_EQ(packed.folder, cache / others.filename().string());
  EXPECT_EQ(read_file(packed.folder / "data.tokens"), read_file(others / "data.tokens"));
}

TEST_F(PackTest, ACacheThatCannotBeMadeIsNamed) {
  const auto cache = corpus / "000.txt" / "cache";
  EXPECT_THROW_WITH(open_or_pack(corpus, cache, options),
                    "packed text is kept in " + cache.string() + ", which cannot be written");
}

TEST_F(PackTest, WhatAPackThatWasKilledLeftIsRemovedAfterADay) {
  const auto cache = folder / "cache", left = cache / ".corpus-0.tmp-2147483647";
  std::filesystem::create_directories(left);
  open_or_pack(corpus, cache, options);
  EXPECT_TRUE(std::filesystem::exists(left)) << "it may be a process of another machine";
  std::filesystem::last_write_time(
      left, std::filesystem::file_time_type::clock::now() - std::chrono::hours(25));
  options.vocab_size = 310;
  open_or_pack(corpus, cache, options);
  EXPECT_FALSE(std::filesystem::exists(left));
}

TEST_F(PackTest, AFolderOfPackedTextIsTokenDataWithItsTokenizer) {
  pack_it();
  ASSERT_TRUE(is_token_data(folder.path()));
  EXPECT_FALSE(is_token_data(corpus));
  const TokenFile tokens = TokenFile::open(folder.path());
  EXPECT_EQ(tokens.vocab_size(), TokenFile::open(folder / "data.tokens").vocab_size());
  for (const std::filesystem::path& place : {folder.path(), folder / "data.tokens"})
    EXPECT_EQ(tokenizer_beside(place, tokens)->hash(), tokens.vocab_hash()) << place;
}

TEST_F(PackTest, ATokenizerThatDidNotMakeTheTokensIsRefused) {
  pack_it();
  const TokenFile tokens = TokenFile::open(folder.path());
  options.vocab_size = 290;
  const auto other = open_or_pack(corpus, folder / "cache", options);
  std::filesystem::copy_file(other.folder / "tokenizer.json", folder / "tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THROW_WITH(tokenizer_beside(folder.path(), tokens), "is not the tokenizer that made");
  std::filesystem::remove(folder / "tokenizer.json");
  EXPECT_FALSE(tokenizer_beside(folder.path(), tokens).has_value());
}

TEST_F(PackTest, ADamagedCacheSaysWhatToRemove) {
  const auto packed = open_or_pack(corpus, folder / "cache", options);
  std::string bytes = read_file(packed.folder / "data.tokens");
  bytes[100] ^= 1;
  write_file(packed.folder / "data.tokens", bytes);
  EXPECT_THROW_WITH(open_or_pack(corpus, folder / "cache", options),
                    "Hint: remove the folder " + packed.folder.string());
}

}  // namespace
}  // namespace mezzo::data
