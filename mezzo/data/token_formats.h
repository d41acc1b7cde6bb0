#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "mezzo/data/mapped_file.h"

namespace mezzo::data {

/// Mezzo's token file begins with these 64 bytes, little-endian; docs/data.md explains them. The
/// train tokens follow, then the held-out tokens.
struct TokenFileHeader {
  char magic[8];
  uint32_t version;
  uint32_t bytes_per_token;  // 2 or 4
  uint64_t vocab_size;
  uint64_t vocab_hash;  // Tokenizer::hash()
  uint64_t train_tokens;
  uint64_t held_out_tokens;
  uint64_t payload_hash;  // XXH3 of all that follows the header
  uint64_t header_hash;   // XXH3 of the 56 bytes before
};
static_assert(sizeof(TokenFileHeader) == 64);
constexpr std::string_view kTokenFileMagic = "MEZZOTOK";
constexpr uint32_t kTokenFileVersion = 1;

/// Tokens one after another in a mapped file.
struct TokenRun {
  std::shared_ptr<const MappedFile> file;
  int64_t byte_offset = 0;
  int bytes_per_token = 2;
  int64_t tokens = 0;
};

/// What one file of any known format holds.
struct TokenFileContent {
  TokenRun train;  // all of it where the format knows no held-out part
  std::optional<TokenRun> held_out;
  std::optional<int64_t> vocab_size;  // nothing: the format does not say
  std::optional<uint64_t> vocab_hash;
};

/// Reads a token file of Mezzo, a .bin of llm.c (GPT-2's or Llama 3's) or any other .bin, taken for
/// raw 16-bit tokens as nanoGPT writes them. Throws Error, saying what is wrong, for a file that is
/// none of these, that is cut off, or whose hashes do not fit (the payload's only if
/// `verify_payload`).
TokenFileContent read_token_format(const std::filesystem::path& path, bool verify_payload);

}  // namespace mezzo::data
