#include "mezzo/data/encoder.h"

#include <utility>

#include "mezzo/base/check.h"
#include "mezzo/data/utf8.h"

namespace mezzo::data {
namespace {

constexpr size_t kLongestKnown = 64;     // longer words hardly ever come twice
constexpr size_t kMostKnown = 1u << 20;  // about 60 MB; a 40 MB corpus of code has 0.3 million

}  // namespace

Encoder::Encoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  if (const auto invalid = find_invalid_utf8(text)) {
    detail::fail<Error>("tokenizer.encode",
                        "the text must be UTF-8, but byte {} (0x{:02x}) is not. Hint: convert it "
                        "with iconv",
                        *invalid, static_cast<unsigned char>(text[*invalid]));
  }
  const size_t size_before = ids.size();
  try {
    tokenizer_.added_tokens().split(text, segments_);
    for (const AddedTokens::Segment& segment : segments_) {
      if (segment.id != AddedTokens::kOrdinary) {
        ids.push_back(segment.id);
        continue;
      }
      tokenizer_.pre_tokenizer().split(segment.text, split_scratch_, pieces_);
      for (const std::string_view piece : pieces_) append_piece(piece, ids);
    }
  } catch (...) {
    ids.resize(size_before);
    throw;
  }
}

void Encoder::append_piece(std::string_view piece, std::vector<int32_t>& ids) {
  if (piece.size() > kLongestKnown) return tokenizer_.bpe().encode(piece, bpe_scratch_, ids);
  if (known_.size() >= kMostKnown) {
    known_.clear();
    known_ids_.clear();
    known_begin_ = {0};
  }
  const auto [index, is_new] = known_.insert(piece);
  if (is_new) {
    tokenizer_.bpe().encode(piece, bpe_scratch_, known_ids_);
    known_begin_.push_back(known_ids_.size());
  }
  ids.insert(ids.end(), known_ids_.begin() + static_cast<ptrdiff_t>(known_begin_[index]),
             known_ids_.begin() + static_cast<ptrdiff_t>(known_begin_[index + 1]));
}

}  // namespace mezzo::data
