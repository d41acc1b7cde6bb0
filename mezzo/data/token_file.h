#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mezzo/data/token_formats.h"

namespace mezzo::data {

enum class Split { train, held_out };

struct TokenFileOptions {
  int64_t vocab_size = 0;      // 0: as the format says; raw files (nanoGPT's) do not say
  int64_t min_held_out = 0;    // tokens to hold out at least where the file itself does not split
  bool verify_payload = true;  // read all of it once, to see that it is whole and in its vocabulary
};

/// The tokens of one split. Cheap to copy; keeps the files open.
class TokenView {
 public:
  int64_t size() const { return size_; }

  /// Sets `tokens` to those from `offset` on. Throws Error for a range outside [0, size()), and,
  /// naming file and position, for a token that is not below the vocabulary's size.
  void read(int64_t offset, std::span<int64_t> tokens) const;

 private:
  friend class TokenFile;
  TokenView(std::string name, std::vector<TokenRun> runs, int64_t vocab_size);
  std::string name_;
  std::vector<TokenRun> runs_;
  std::vector<int64_t> begins_;  // of each run
  int64_t size_ = 0;
  int64_t vocab_size_;
};

/// What packed text has its tokens in, in a folder beside the tokenizer.json that made them.
inline constexpr const char* kPackedTokens = "data.tokens";

/// Tokens on disk, mapped: opening costs no memory. Any number of threads may read.
class TokenFile {
 public:
  /// path  a token file of Mezzo; or a .bin of llm.c or nanoGPT, with the files beside it that have
  ///       "val" for its "train" as held-out part; or a folder that holds such a pair, or packed
  ///       text.
  /// Where there is no such part, the last 1/20 (at least min_held_out tokens) is held out.
  /// Throws Error, naming the file and what is wrong.
  static TokenFile open(const std::filesystem::path& path, const TokenFileOptions& options = {});

  const TokenView& split(Split split) const { return split == Split::train ? train_ : held_out_; }
  int64_t vocab_size() const { return vocab_size_; }
  /// Tokenizer::hash() of the tokenizer that made it; nothing for foreign formats.
  std::optional<uint64_t> vocab_hash() const { return vocab_hash_; }

 private:
  TokenFile(TokenView train, TokenView held_out, int64_t vocab_size,
            std::optional<uint64_t> vocab_hash);
  TokenView train_;
  TokenView held_out_;
  int64_t vocab_size_;
  std::optional<uint64_t> vocab_hash_;
};

/// Tells one token file from another: a hash of the sizes of its splits and its vocabulary and of
/// 64 stretches of 64 training tokens, evenly spaced.
uint64_t token_fingerprint(const TokenFile& tokens);

/// Whether `path` is something TokenFile::open is for, and not text: a file that begins as a token
/// file of Mezzo does, a .bin, or a folder with packed text or a .bin that has "train" in its name.
bool is_token_data(const std::filesystem::path& path);

}  // namespace mezzo::data
