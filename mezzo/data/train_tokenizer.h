#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "mezzo/data/tokenizer.h"

namespace mezzo::data {

/// Texts that need not all be in memory. `text` is called from several threads at once.
struct TextSource {
  int64_t count = 0;
  std::function<std::string(int64_t index)> text;
};

struct TrainTokenizerOptions {
  int64_t vocab_size = 4096;
  int threads = 0;                                     // 0: as many as the machine has processors
  std::function<void(double fraction)> progress = {};  // called by the calling thread
};

/// A tokenizer of GPT-2's kind learnt from texts, with <|endoftext|> as token 0. The same texts
/// give the same tokenizer for any number of threads, and the one that the tokenizers package
/// gives. Where the texts do not hold enough to merge, vocab_size() is smaller than asked for.
/// Throws Error for text that is not UTF-8.
Tokenizer train_tokenizer(const TextSource& texts, const TrainTokenizerOptions& options);
Tokenizer train_tokenizer(std::span<const std::string> texts, const TrainTokenizerOptions& options);

}  // namespace mezzo::data
