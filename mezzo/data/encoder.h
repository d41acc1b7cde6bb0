#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "mezzo/data/added_tokens.h"
#include "mezzo/data/bpe.h"
#include "mezzo/data/pretokenizer.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/data/word_table.h"

namespace mezzo::data {

/// Encodes many texts with one tokenizer and remembers the words it has met: one a thread.
class Encoder {
 public:
  explicit Encoder(Tokenizer tokenizer);
  /// Appends what Tokenizer::encode gives. Throws as it does; `ids` is then as it was.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  void append_piece(std::string_view piece, std::vector<int32_t>& ids);

  Tokenizer tokenizer_;
  PreTokenizer::Scratch split_scratch_;
  Bpe::Scratch bpe_scratch_;
  std::vector<AddedTokens::Segment> segments_;
  std::vector<std::string_view> pieces_;
  // The tokens of word i are known_ids_[known_begin_[i]] up to known_begin_[i + 1].
  WordTable known_;
  std::vector<int32_t> known_ids_;
  std::vector<size_t> known_begin_ = {0};
};

}  // namespace mezzo::data
