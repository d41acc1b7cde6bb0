#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mezzo/data/added_tokens.h"
#include "mezzo/data/bpe.h"

namespace mezzo::data {

/// What a tokenizer.json says, checked.
struct TokenizerParts {
  std::vector<std::string> vocabulary;  // by id, in the byte alphabet; "" where no token is
  std::vector<Bpe::Merge> merges;       // by rank
  std::vector<std::string> patterns;    // of the pre-tokenizer, in order
  std::vector<AddedToken> added;
  bool ignore_merges = false;  // a piece that is in the vocabulary is that token
};

/// Reads the text of a tokenizer.json; `name` is what errors call it. Throws Error, naming the
/// field and its value, for broken files and for anything that would make the tokenizers package
/// encode differently from what is read here.
TokenizerParts parse_tokenizer_json(std::string_view text, std::string_view name);

/// The text of a tokenizer.json of GPT-2's kind.
std::string write_tokenizer_json(const TokenizerParts& parts);

}  // namespace mezzo::data
