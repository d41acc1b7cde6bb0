#include "mezzo/data/packed_data.h"

#include <bit>
#include <cerrno>
#include <chrono>
#include <system_error>

#include <unistd.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/data/hash.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

// Counts up when the same corpus and options come to give other tokens.
constexpr uint64_t kPackingVersion = 2;

constexpr const char* kTokenizerFile = "tokenizer.json";

// Several machines may share a cache, and know nothing of each other's processes.
constexpr std::chrono::hours kAgeOfLeftovers(24);

uint64_t key_of(const fs::path& corpus, const PackOptions& options) {
  Hasher hasher;
  hasher.add(kPackingVersion).add(corpus_fingerprint(corpus, options.corpus));
  hasher.add(std::bit_cast<uint64_t>(options.held_out_fraction));
  if (options.tokenizer) return hasher.add(options.tokenizer->hash()).value();
  hasher.add(static_cast<uint64_t>(options.vocab_size));
  hasher.add(static_cast<uint64_t>(options.tokenizer_bytes));
  return hasher.value();
}

// A name to recognise it by, and the key. "data/" has no file name of its own.
fs::path folder_for(const fs::path& corpus, const fs::path& cache, uint64_t key) {
  const fs::path absolute = fs::absolute(corpus).lexically_normal();
  const fs::path name =
      absolute.has_filename() ? absolute.filename() : absolute.parent_path().filename();
  return cache / fmt::format("{}-{:016x}", name.string(), key);
}

PackedData open_packed(const fs::path& folder) {
  try {
    TokenFile tokens = TokenFile::open(folder / kPackedTokens);
    std::optional<Tokenizer> tokenizer = tokenizer_beside(folder, tokens);
    MEZZO_CHECK(tokenizer, "pack", "{} has no {}.", folder.string(), kTokenizerFile);
    return {std::move(*tokenizer), std::move(tokens), folder, std::nullopt};
  } catch (const Error& error) {
    detail::fail<Error>("pack", "{} Hint: remove the folder {} and run again", error.what(),
                        folder.string());
  }
}

void make_cache(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && ::access(folder.c_str(), W_OK) != 0) error.assign(errno, std::system_category());
  MEZZO_CHECK(!error, "data",
              "packed text is kept in {}, which cannot be written: {}. Hint: set MEZZO_CACHE to a "
              "folder that can",
              folder.string(), error.message());
}

}  // namespace

PackedData open_or_pack(const fs::path& corpus, const fs::path& cache_folder,
                        const PackOptions& options) {
  const fs::path folder = folder_for(corpus, cache_folder, key_of(corpus, options));
  std::optional<PackStatistics> statistics;
  if (!fs::exists(folder)) {
    make_cache(cache_folder);
    remove_leftovers(cache_folder, kAgeOfLeftovers);
    try {
      write_folder_atomically(folder, [&](const fs::path& temporary) {
        statistics = pack(corpus, temporary / kTokenizerFile, temporary / kPackedTokens, options);
      });
    } catch (const Error&) {
      if (!fs::exists(folder)) throw;
      statistics.reset();  // another process has packed the same meanwhile
    }
  }
  PackedData packed = open_packed(folder);
  packed.statistics = std::move(statistics);
  return packed;
}

std::optional<Tokenizer> tokenizer_beside(const fs::path& token_data, const TokenFile& tokens) {
  const fs::path folder = fs::is_directory(token_data) ? token_data : token_data.parent_path();
  const fs::path file = folder / kTokenizerFile;
  if (!fs::exists(file)) return std::nullopt;
  Tokenizer tokenizer = Tokenizer::load(file);
  MEZZO_CHECK(tokens.vocab_hash().value_or(tokenizer.hash()) == tokenizer.hash() &&
                  tokenizer.vocab_size() <= tokens.vocab_size(),
              "pack",
              "{} is not the tokenizer that made {}: hash {:016x} and {} tokens, but the data has "
              "{:016x} and {}. Hint: put the right one there, or pack the text again.",
              file.string(), token_data.string(), tokenizer.hash(), tokenizer.vocab_size(),
              tokens.vocab_hash().value_or(0), tokens.vocab_size());
  return tokenizer;
}

}  // namespace mezzo::data
