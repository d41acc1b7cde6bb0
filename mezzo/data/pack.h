#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "mezzo/data/corpus.h"
#include "mezzo/data/tokenizer.h"

namespace mezzo::data {

struct PackOptions {
  CorpusOptions corpus = {};
  int64_t vocab_size = 4096;                // of the tokenizer, where it is to be trained
  int64_t tokenizer_bytes = 1 << 28;        // of text to train the tokenizer on, at most
  std::optional<Tokenizer> tokenizer = {};  // to be used, and none trained
  double held_out_fraction = 0.05;          // of the corpus's bytes, in whole documents
  // phase is "scan", "train tokenizer" or "encode"; fraction goes from 0 to 1 in each. Called by
  // the calling thread.
  std::function<void(std::string_view phase, double fraction)> progress = {};
};

struct PackStatistics {
  int64_t files = 0;
  int64_t documents = 0;
  int64_t held_out_documents = 0;  // of the documents
  std::vector<SkippedFile> skipped;
  int64_t bytes = 0;
  int64_t train_tokens = 0;
  int64_t held_out_tokens = 0;
  double bytes_per_token() const {
    return static_cast<double>(bytes) / static_cast<double>(train_tokens + held_out_tokens);
  }
};

/// Corpus -> tokenizer -> token file. A tokenizer.json that is there is used as it is; else that of
/// the options, or one is trained on the documents that are not held out, and written there at the
/// end. Every document ends with the end-of-text token. The same corpus and options give the same
/// bytes for any number of threads. Memory: some batches of 8 MiB of text, and the largest document
/// of each. Throws Error; no part of a file and no new tokenizer is then left.
PackStatistics pack(const std::filesystem::path& corpus, const std::filesystem::path& tokenizer,
                    const std::filesystem::path& token_file, const PackOptions& options = {});

}  // namespace mezzo::data
