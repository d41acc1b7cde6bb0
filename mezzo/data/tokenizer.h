#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::data {

class AddedTokens;
class Bpe;
class PreTokenizer;

/// Byte-level BPE as a Hugging Face tokenizer.json describes it (GPT-2's and Llama 3's kind), equal
/// id for id to the `tokenizers` package with add_special_tokens=False. Immutable and cheap to
/// copy; any number of threads may use one.
class Tokenizer {
 public:
  /// Throws Error, naming the field and its value, for a file that is broken or that asks for what
  /// Mezzo does not do (normalizers, other models than BPE, ...).
  static Tokenizer load(const std::filesystem::path& path);
  /// The same from the text of such a file; `name` is what errors call it.
  static Tokenizer parse(std::string_view json, std::string_view name = "tokenizer.json");

  /// Writes the very bytes that were loaded, or that training made. Atomic.
  void save(const std::filesystem::path& path) const;

  /// Added tokens (such as <|endoftext|>) are found in the text as they are spelled. Throws Error,
  /// naming the byte, for text that is not well-formed UTF-8. For many texts see Encoder.
  std::vector<int32_t> encode(std::string_view text) const;

  /// The bytes that the tokens stand for: the text again for what encode gave, perhaps not UTF-8
  /// where tokens were cut off. Throws Error for an id that is no token.
  std::string decode(std::span<const int32_t> ids) const;

  /// One more than the largest id.
  int64_t vocab_size() const;
  /// The ids below it that are no token: decode() refuses them.
  std::vector<int64_t> gaps() const;

  /// Changes if any text could be encoded differently; written into token files.
  uint64_t hash() const;

  /// The added token that ends a document: <|endoftext|>, <|end_of_text|> or </s>.
  std::optional<int32_t> end_of_text() const;

  const AddedTokens& added_tokens() const;
  const PreTokenizer& pre_tokenizer() const;
  const Bpe& bpe() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace mezzo::data
