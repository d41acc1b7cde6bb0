#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "mezzo/data/hash.h"
#include "mezzo/data/token_file.h"

namespace mezzo::data {

/// Writes a token file bit by bit, under a temporary name until it is whole: a reader, or a crash
/// at any instant, sees the old file or the new one.
class TokenFileWriter {
 public:
  /// Tokens take 2 bytes up to a vocabulary of 65536, else 4.
  TokenFileWriter(std::filesystem::path path, int64_t vocab_size, uint64_t vocab_hash);
  /// Removes what was written, unless finish() was called.
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  /// All train tokens come before the held-out ones. Throws Error for a token outside the
  /// vocabulary, and with the system's reason when writing fails.
  void append(Split split, std::span<const int32_t> tokens);
  /// Writes the header, fsyncs and renames. Call once.
  void finish();

 private:
  void write_at(int64_t offset, const void* bytes, size_t size);
  [[noreturn]] void fail(const char* action) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int file_ = -1;
  TokenFileHeader header_{};
  Hasher payload_hash_;
  std::vector<char> buffer_;
};

}  // namespace mezzo::data
