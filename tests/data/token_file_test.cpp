#include "mezzo/data/token_file.h"

#include <numeric>

#include "mezzo/base/check.h"
#include "mezzo/data/token_file_writer.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using mezzo::testing::read_file;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;
using ::testing::ElementsAre;

std::vector<int64_t> all_of(const TokenView& view) {
  std::vector<int64_t> tokens(static_cast<size_t>(view.size()));
  view.read(0, tokens);
  return tokens;
}

std::vector<int64_t> train_of(const TokenFile& file) { return all_of(file.split(Split::train)); }
std::vector<int64_t> held_out_of(const TokenFile& file) {
  return all_of(file.split(Split::held_out));
}

template <class T>
std::string as_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::string llmc_bytes(int32_t magic, int32_t version, const std::vector<T>& tokens) {
  std::vector<int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = static_cast<int32_t>(tokens.size());
  return as_bytes(header) + as_bytes(tokens);
}

void write_own(const std::filesystem::path& path, int64_t vocab_size,
               const std::vector<int32_t>& train, const std::vector<int32_t>& held_out) {
  TokenFileWriter writer(path, vocab_size, 0xABCDEF);
  writer.append(Split::train, train);
  writer.append(Split::held_out, held_out);
  writer.finish();
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  const TempDir folder;
  for (const int64_t vocab_size : {65536, 65537}) {
    const int32_t last = static_cast<int32_t>(vocab_size - 1);
    write_own(folder / "a.tokens", vocab_size, {5, 0, last}, {7});
    const auto file = TokenFile::open(folder / "a.tokens");
    EXPECT_THAT(train_of(file), ElementsAre(5, 0, last));
    EXPECT_THAT(held_out_of(file), ElementsAre(7));
    EXPECT_EQ(file.vocab_size(), vocab_size);
    EXPECT_EQ(file.vocab_hash(), 0xABCDEFu);
    EXPECT_EQ(read_file(folder / "a.tokens").size(), 64u + 4 * (vocab_size == 65536 ? 2 : 4));
  }
}

TEST(TokenFile, AViewOutlivesItsFile) {
  const TempDir folder;
  write_own(folder / "a.tokens", 300, {1, 2}, {3});
  const TokenView view = TokenFile::open(folder / "a.tokens").split(Split::train);
  EXPECT_THAT(all_of(view), ElementsAre(1, 2));
}

TEST(TokenFile, ReadsOutsideOfASplitAreErrors) {
  const TempDir folder;
  write_own(folder / "a.tokens", 300, {1, 2, 3}, {4});
  const auto file = TokenFile::open(folder / "a.tokens");
  std::vector<int64_t> two(2);
  file.split(Split::train).read(1, two);
  EXPECT_THAT(two, ElementsAre(2, 3));
  EXPECT_THROW_WITH(file.split(Split::train).read(2, two),
                    "the train split must lie within its 3 tokens, but asks for 2 from 2 on");
  EXPECT_THROW_WITH(file.split(Split::train).read(-1, two), "from -1 on");
  EXPECT_THROW_WITH(file.split(Split::held_out).read(INT64_MAX, two), "within its 1 tokens");
}

TEST(TokenFile, AlteredAndTruncatedFilesSaySo) {
  const TempDir folder;
  write_own(folder / "a.tokens", 300, {1, 2, 3}, {4});
  std::string bytes = read_file(folder / "a.tokens");
  write_file(folder / "short.tokens", bytes.substr(0, bytes.size() - 1));
  EXPECT_THROW_WITH(TokenFile::open(folder / "short.tokens"), "cut off or altered");
  bytes[66] ^= 1;
  write_file(folder / "altered.tokens", bytes);
  EXPECT_THROW_WITH(TokenFile::open(folder / "altered.tokens"), "but they were altered");
  EXPECT_NO_THROW(TokenFile::open(folder / "altered.tokens", {.verify_payload = false}));
  bytes[8] = 2;
  write_file(folder / "newer.tokens", bytes);
  EXPECT_THROW_WITH(TokenFile::open(folder / "newer.tokens"), "has format 2, this build reads 1");
  EXPECT_THROW_WITH(TokenFile::open(folder / "none"), "but is not there");
  write_file(folder / "text.txt", "just text");
  EXPECT_THROW_WITH(TokenFile::open(folder / "text.txt"),
                    "but is none of these. Hint: if it holds 16-bit tokens");
}

TEST(TokenFileWriter, LeavesNothingUnlessFinished) {
  const TempDir folder;
  write_file(folder / "a.tokens", "old");
  {
    TokenFileWriter writer(folder / "a.tokens", 300, 1);
    const std::vector<int32_t> tokens = {1, 2};
    writer.append(Split::train, tokens);
  }
  EXPECT_EQ(read_file(folder / "a.tokens"), "old");
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(TokenFileWriter, RefusesForeignTokensAndTheWrongOrder) {
  const TempDir folder;
  TokenFileWriter writer(folder / "a.tokens", 300, 1);
  const std::vector<int32_t> good = {299};
  const std::vector<int32_t> large = {300};
  const std::vector<int32_t> negative = {-1};
  EXPECT_THROW_WITH(writer.append(Split::train, large), "from 0 to 299, but one is 300");
  EXPECT_THROW_WITH(writer.append(Split::train, negative), "but one is -1");
  writer.append(Split::held_out, good);
  EXPECT_THROW_WITH(writer.append(Split::train, good), "must come before the held-out ones");
  EXPECT_THROW_WITH(TokenFileWriter(folder / "no" / "a.tokens", 300, 1), "No such file");
}

TEST(TokenFile, ReadsLlmcPairsOfBothKinds) {
  const TempDir folder;
  write_file(folder / "tiny_train.bin", llmc_bytes<uint16_t>(20240520, 1, {50256, 1, 2}));
  write_file(folder / "tiny_val.bin", llmc_bytes<uint16_t>(20240520, 1, {9, 8}));
  for (const auto& path : {folder.path(), folder / "tiny_train.bin"}) {
    const auto file = TokenFile::open(path);
    EXPECT_EQ(file.vocab_size(), 50257);
    EXPECT_FALSE(file.vocab_hash());
    EXPECT_THAT(train_of(file), ElementsAre(50256, 1, 2));
    EXPECT_THAT(held_out_of(file), ElementsAre(9, 8));
  }
  write_file(folder / "l_train.bin", llmc_bytes<uint32_t>(20240801, 7, {128255, 1}));
  write_file(folder / "l_val.bin", llmc_bytes<uint32_t>(20240801, 7, {5}));
  const auto file = TokenFile::open(folder / "l_train.bin");
  EXPECT_EQ(file.vocab_size(), 128256);
  EXPECT_THAT(train_of(file), ElementsAre(128255, 1));
  EXPECT_THROW_WITH(TokenFile::open(folder.path()), R"(several ("l_", "tiny_"))");
}

TEST(TokenFile, ReadsShardsOneAfterTheOther) {
  const TempDir folder;
  write_file(folder / "web_val_000000.bin", llmc_bytes<uint16_t>(20240520, 1, {9}));
  write_file(folder / "web_train_000002.bin", llmc_bytes<uint16_t>(20240520, 1, {3, 4, 5}));
  write_file(folder / "web_train_000001.bin", llmc_bytes<uint16_t>(20240520, 1, {1, 2}));
  const auto file = TokenFile::open(folder.path());
  EXPECT_THAT(train_of(file), ElementsAre(1, 2, 3, 4, 5));
  std::vector<int64_t> across(3);
  file.split(Split::train).read(1, across);
  EXPECT_THAT(across, ElementsAre(2, 3, 4));
  EXPECT_THAT(train_of(TokenFile::open(folder / "web_train_000002.bin")), ElementsAre(3, 4, 5));
}

TEST(TokenFile, LlmcHeadersThatDoNotFitAreErrors) {
  const TempDir folder;
  const std::string bytes = llmc_bytes<uint16_t>(20240520, 1, {1, 2, 3});
  write_file(folder / "a.bin", bytes.substr(0, bytes.size() - 2));
  EXPECT_THROW_WITH(TokenFile::open(folder / "a.bin"), "for the 3 tokens that its header counts");
  write_file(folder / "b.bin", llmc_bytes<uint16_t>(20240520, 2, {1}));
  EXPECT_THROW_WITH(TokenFile::open(folder / "b.bin"), "must be llm.c's version 1, but is 2");
  write_file(folder / "c.bin", bytes.substr(0, 100));
  EXPECT_THROW_WITH(TokenFile::open(folder / "c.bin"), "header of 1024 bytes, but has 100");
}

TEST(TokenFile, ReadsNanoGptPairsGivenTheVocabulary) {
  const TempDir folder;
  write_file(folder / "train.bin", as_bytes<uint16_t>({1, 2, 64}));
  write_file(folder / "val.bin", as_bytes<uint16_t>({3}));
  EXPECT_THROW_WITH(TokenFile::open(folder.path()), "must be given (vocab_size");
  const auto file = TokenFile::open(folder.path(), {.vocab_size = 65});
  EXPECT_THAT(train_of(file), ElementsAre(1, 2, 64));
  EXPECT_THAT(held_out_of(file), ElementsAre(3));
}

TEST(TokenFile, ATokenOutsideOfTheVocabularyIsNamedWithItsPosition) {
  const TempDir folder;
  write_file(folder / "train.bin", as_bytes<uint16_t>({1, 2, 65, 3}));
  write_file(folder / "val.bin", as_bytes<uint16_t>({3}));
  const auto file = TokenFile::open(folder.path(), {.vocab_size = 65, .verify_payload = false});
  EXPECT_THROW_WITH(train_of(file),
                    "must hold tokens below 65, its vocabulary's size, but has 65 at position 2");
}

TEST(TokenFile, ATokenOutsideOfTheVocabularyIsFoundWhenAForeignFileIsOpened) {
  const TempDir folder;
  std::vector<uint16_t> tokens(100'000, 1);
  write_file(folder / "train.bin", as_bytes(tokens));
  write_file(folder / "val.bin", as_bytes<uint16_t>({3}));
  EXPECT_NO_THROW(TokenFile::open(folder.path(), {.vocab_size = 65}));
  tokens[70'000] = 4999;
  write_file(folder / "train.bin", as_bytes(tokens));
  EXPECT_THROW_WITH(
      TokenFile::open(folder.path(), {.vocab_size = 65}),
      "tokens below 65, its vocabulary's size, but has 4999. Hint: --vocab-size 5000");
  write_file(folder / "val.bin", as_bytes<uint16_t>({6000}));
  EXPECT_THROW_WITH(TokenFile::open(folder.path(), {.vocab_size = 5000}), "--vocab-size 6001");
}

TEST(TokenFile, WithoutAHeldOutFileTheTailIsHeldOut) {
  const TempDir folder;
  std::vector<uint16_t> tokens(100);
  std::iota(tokens.begin(), tokens.end(), uint16_t{0});
  write_file(folder / "all.bin", as_bytes(tokens));
  const auto file = TokenFile::open(folder / "all.bin", {.vocab_size = 100});
  EXPECT_EQ(file.split(Split::train).size(), 95);
  EXPECT_THAT(held_out_of(file), ElementsAre(95, 96, 97, 98, 99));
  const auto longer = TokenFile::open(folder / "all.bin", {.vocab_size = 100, .min_held_out = 33});
  EXPECT_EQ(longer.split(Split::held_out).size(), 33);
  EXPECT_THROW_WITH(TokenFile::open(folder / "all.bin", {.vocab_size = 100, .min_held_out = 100}),
                    "more tokens than the 100 to hold out, but holds 100");
}

TEST(TokenFile, TokenDataIsToldFromText) {
  const TempDir folder;
  write_own(folder / "a.tokens", 300, {1}, {2});
  write_file(folder / "a.txt", "text");
  std::filesystem::create_directory(folder / "bins");
  EXPECT_TRUE(is_token_data(folder / "a.tokens"));
  EXPECT_FALSE(is_token_data(folder / "a.txt"));
  EXPECT_FALSE(is_token_data(folder / "bins"));
  write_file(folder / "bins" / "train.bin", "xx");
  EXPECT_TRUE(is_token_data(folder / "bins"));
  EXPECT_TRUE(is_token_data(folder / "bins" / "train.bin"));
}

}  // namespace
}  // namespace mezzo::data
