// Broken input gives an Error or something that works; run with the debug preset, also no
// undefined behaviour.
#include <functional>

#include "mezzo/base/check.h"
#include "mezzo/data/random.h"
#include "mezzo/data/token_file.h"
#include "mezzo/data/token_file_writer.h"
#include "mezzo/data/tokenizer.h"
#include "tests/data/golden_text.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using mezzo::testing::read_file;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;

// How many of the attempts gave an Error; any other exception fails the test.
int errors_in(int attempts, const std::function<void(Random&)>& attempt) {
  int errors = 0;
  for (int i = 0; i < attempts; ++i) {
    Random random(static_cast<uint64_t>(i));
    try {
      attempt(random);
    } catch (const Error&) {
      ++errors;
    }
  }
  return errors;
}

std::string random_bytes(Random& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.next());
  return bytes;
}

void flip_bit(std::string& bytes, Random& random) {
  char& byte = bytes[random.below(bytes.size())];
  byte = static_cast<char>(byte ^ (1 << random.below(8)));
}

void use(const Tokenizer& tokenizer) {
  const std::string text = "Some text, 123, it's <|endoftext|> \u4eca\u5929 ";
  EXPECT_FALSE(tokenizer.decode(tokenizer.encode(text)).empty());
}

TEST(Fuzz, ATokenizerJsonWithFlippedBitsIsAnErrorOrWorks) {
  const std::string whole = read_file(testing::golden_path("llama3_kind.json"));
  const int errors = errors_in(300, [&](Random& random) {
    std::string bytes = whole;
    for (uint64_t flips = 1 + random.below(3); flips > 0; --flips) flip_bit(bytes, random);
    use(Tokenizer::parse(bytes));
  });
  EXPECT_GT(errors, 100);
}

TEST(Fuzz, ATruncatedTokenizerJsonIsAnError) {
  const std::string whole = read_file(testing::golden_path("gpt2_kind.json"));
  const int errors = errors_in(100, [&](Random& random) {
    use(Tokenizer::parse(whole.substr(0, random.below(whole.size() - 1))));
  });
  EXPECT_EQ(errors, 100);
}

TEST(Fuzz, RandomBytesAreNoTokenizer) {
  const int errors = errors_in(
      500, [&](Random& random) { use(Tokenizer::parse(random_bytes(random, random.below(200)))); });
  EXPECT_EQ(errors, 500);
  EXPECT_THROW_WITH(Tokenizer::parse(std::string(1 << 20, '[')), "must be JSON");
}

TEST(Fuzz, EncodingRandomBytesIsAnErrorOrGivesThemBack) {
  const auto tokenizer = Tokenizer::load(testing::golden_path("llama3_kind.json"));
  const int errors = errors_in(2000, [&](Random& random) {
    const std::string bytes = random_bytes(random, random.below(6));
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(bytes)), bytes);
  });
  EXPECT_GT(errors, 500);
  EXPECT_LT(errors, 2000);
}

std::string own_token_file(const TempDir& folder) {
  TokenFileWriter writer(folder / "own.tokens", 300, 42);
  const std::vector<int32_t> tokens = {1, 2, 3, 299, 0, 7};
  writer.append(Split::train, tokens);
  writer.append(Split::held_out, tokens);
  writer.finish();
  return read_file(folder / "own.tokens");
}

void read_all(const std::filesystem::path& path) {
  const auto file = TokenFile::open(path, {.vocab_size = 300});
  for (const Split split : {Split::train, Split::held_out}) {
    std::vector<int64_t> tokens(static_cast<size_t>(file.split(split).size()));
    file.split(split).read(0, tokens);
  }
}

TEST(Fuzz, EveryFlippedBitOfATokenFileIsAnError) {
  const TempDir folder;
  const std::string whole = own_token_file(folder);
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    write_file(folder / "bad.tokens", bytes);
    EXPECT_THROW(read_all(folder / "bad.tokens"), Error) << "bit " << bit;
  }
}

TEST(Fuzz, ATokenFileOfAnyOtherLengthIsAnError) {
  const TempDir folder;
  const std::string whole = own_token_file(folder);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(folder / "bad.tokens", whole.substr(0, size));
    EXPECT_THROW(read_all(folder / "bad.tokens"), Error) << "size " << size;
  }
  write_file(folder / "bad.tokens", whole + "\1\2");
  EXPECT_THROW_WITH(read_all(folder / "bad.tokens"), "cut off or altered");
}

TEST(Fuzz, RandomBytesInABinFileAreAnErrorOrTokens) {
  const TempDir folder;
  errors_in(300, [&](Random& random) {
    std::string bytes = random_bytes(random, random.below(2100));
    const std::string magics[] = {"", "\x88\xD8\x34\x01", std::string(kTokenFileMagic)};
    write_file(folder / "any.bin", magics[random.below(3)] + bytes);
    read_all(folder / "any.bin");
  });
}

}  // namespace
}  // namespace mezzo::data
