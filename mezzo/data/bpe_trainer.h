#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mezzo/data/bpe.h"

namespace mezzo::data {

struct WordCount {
  std::string word;  // bytes
  int64_t count = 0;
};

struct BpeVocabulary {
  std::vector<std::string> tokens;  // by id, as bytes
  std::vector<Bpe::Merge> merges;   // by rank
};

/// Learns merges from words: `first_token`, then the 256 bytes, then one token a merge until there
/// are `vocab_size` or no two tokens stand together any more. The most frequent pair is merged
/// first, among equals the one of the smallest ids. Equal to the tokenizers package's BpeTrainer
/// with that special token and the byte-level initial alphabet.
/// `progress` hears of the tokens there are, now and then.
BpeVocabulary train_bpe(const std::vector<WordCount>& words, int64_t vocab_size,
                        const std::string& first_token,
                        const std::function<void(int64_t tokens)>& progress = {});

}  // namespace mezzo::data
