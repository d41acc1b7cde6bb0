#include "mezzo/data/token_formats.h"

#include <bit>
#include <cstring>

#include "mezzo/base/check.h"
#include "mezzo/data/hash.h"

namespace mezzo::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

using SharedFile = std::shared_ptr<const MappedFile>;

constexpr int64_t kLlmcHeaderBytes = 256 * 4;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
T read_as(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// In 64 bits without overflow, whatever a broken header says.
bool has_payload_of(const TokenFileHeader& header, uint64_t bytes) {
  const uint64_t tokens = bytes / header.bytes_per_token;
  return bytes % header.bytes_per_token == 0 && header.train_tokens <= tokens &&
         header.held_out_tokens == tokens - header.train_tokens;
}

TokenFileContent read_own(const SharedFile& file, bool verify_payload) {
  const std::string name = file->path().string();
  const auto bytes = file->bytes();
  MEZZO_CHECK(bytes.size() >= sizeof(TokenFileHeader), "token_file",
              "{} must begin with a header of 64 bytes, but has {} bytes in all; it was cut off",
              name, bytes.size());
  const auto header = read_as<TokenFileHeader>(bytes);
  MEZZO_CHECK(header.version == kTokenFileVersion, "token_file",
              "{} has format {}, this build reads {}. Hint: make it anew from its text", name,
              header.version, kTokenFileVersion);
  MEZZO_CHECK(hash_of(as_text(bytes.first(56))) == header.header_hash, "token_file",
              "{} must have the header it was written with, but it was altered", name);
  MEZZO_CHECK(header.bytes_per_token == 2 || header.bytes_per_token == 4, "token_file",
              "{} must have 2 or 4 bytes a token, but says {}", name, header.bytes_per_token);
  const auto payload = bytes.subspan(sizeof header);
  MEZZO_CHECK(
      has_payload_of(header, payload.size()), "token_file",
      "{} must hold {} + {} tokens of {} bytes after its header, but holds {} bytes; it was "
      "cut off or altered",
      name, header.train_tokens, header.held_out_tokens, header.bytes_per_token, payload.size());
  if (verify_payload) {
    const uint64_t found = hash_of(as_text(payload));
    MEZZO_CHECK(found == header.payload_hash, "token_file",
                "{} must hold the tokens it was written with (hash {:016x}), but they were altered "
                "(hash {:016x}). Hint: make it anew from its text",
                name, header.payload_hash, found);
  }
  const int width = static_cast<int>(header.bytes_per_token);
  const auto train_tokens = static_cast<int64_t>(header.train_tokens);
  TokenFileContent content;
  content.train = {file, sizeof header, width, train_tokens};
  content.held_out = TokenRun{file, static_cast<int64_t>(sizeof header) + train_tokens * width,
                              width, static_cast<int64_t>(header.held_out_tokens)};
  content.vocab_size = static_cast<int64_t>(header.vocab_size);
  content.vocab_hash = header.vocab_hash;
  return content;
}

struct LlmcKind {
  int32_t magic;
  int32_t version;
  int bytes_per_token;
  int64_t vocab_size;
};
// llm.c's data files do not say their vocabulary: the magic number stands for GPT-2's or Llama 3's.
constexpr LlmcKind kLlmcKinds[] = {{20240520, 1, 2, 50257}, {20240801, 7, 4, 128256}};

const LlmcKind* llmc_kind_of(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return nullptr;
  for (const LlmcKind& kind : kLlmcKinds) {
    if (read_as<int32_t>(bytes) == kind.magic) return &kind;
  }
  return nullptr;
}

TokenFileContent read_llmc(const SharedFile& file, const LlmcKind& kind) {
  const std::string name = file->path().string();
  const auto bytes = file->bytes();
  MEZZO_CHECK(bytes.size() >= kLlmcHeaderBytes, "token_file",
              "{} must begin with llm.c's header of 1024 bytes, but has {} bytes; it was cut off",
              name, bytes.size());
  const int32_t version = read_as<int32_t>(bytes.subspan(4));
  const int32_t tokens = read_as<int32_t>(bytes.subspan(8));
  MEZZO_CHECK(version == kind.version, "token_file", "{} must be llm.c's version {}, but is {}",
              name, kind.version, version);
  const int64_t expected = kLlmcHeaderBytes + static_cast<int64_t>(tokens) * kind.bytes_per_token;
  MEZZO_CHECK(tokens >= 0 && static_cast<int64_t>(bytes.size()) == expected, "token_file",
              "{} must have {} bytes for the {} tokens that its header counts, but has {}; it was "
              "cut off or altered",
              name, expected, tokens, bytes.size());
  TokenFileContent content;
  content.train = {file, kLlmcHeaderBytes, kind.bytes_per_token, tokens};
  content.vocab_size = kind.vocab_size;
  return content;
}

TokenFileContent read_raw(const SharedFile& file) {
  const std::string name = file->path().string();
  const auto size = static_cast<int64_t>(file->bytes().size());
  MEZZO_CHECK_USAGE(
      file->path().extension() == ".bin", "token_file",
      "{} must be a token file of Mezzo or a .bin of llm.c or nanoGPT, but is none of these. Hint: "
      "if it holds 16-bit tokens as nanoGPT writes them, give it a name that ends in .bin",
      name);
  MEZZO_CHECK(size > 0 && size % 2 == 0, "token_file",
              "{} has no header, so it must be 16-bit tokens as nanoGPT writes them, but it has {} "
              "bytes",
              name, size);
  TokenFileContent content;
  content.train = {file, 0, 2, size / 2};
  return content;
}

}  // namespace

TokenFileContent read_token_format(const std::filesystem::path& path, bool verify_payload) {
  const auto file = std::make_shared<const MappedFile>(path);
  if (as_text(file->bytes()).starts_with(kTokenFileMagic)) return read_own(file, verify_payload);
  if (const LlmcKind* kind = llmc_kind_of(file->bytes())) return read_llmc(file, *kind);
  return read_raw(file);
}

}  // namespace mezzo::data
