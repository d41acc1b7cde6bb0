#pragma once

#include <filesystem>
#include <optional>

#include "mezzo/data/pack.h"
#include "mezzo/data/token_file.h"
#include "mezzo/data/tokenizer.h"

namespace mezzo::data {

struct PackedData {
  Tokenizer tokenizer;
  TokenFile tokens;
  std::filesystem::path folder;              // holds tokenizer.json and data.tokens
  std::optional<PackStatistics> statistics;  // nothing: they were there
};

/// The tokenizer and the token file of a corpus, out of the cache folder; packed first if they are
/// not there for these very files (paths, sizes, times of change), tokenizer or vocabulary size,
/// and options. What was packed before stays; the user may remove any folder of the cache.
PackedData open_or_pack(const std::filesystem::path& corpus,
                        const std::filesystem::path& cache_folder, const PackOptions& options = {});

/// The tokenizer.json beside token data, a file or a folder; nothing where there is none. Throws
/// Error for one that did not make these tokens, as far as the data can tell.
std::optional<Tokenizer> tokenizer_beside(const std::filesystem::path& token_data,
                                          const TokenFile& tokens);

}  // namespace mezzo::data
