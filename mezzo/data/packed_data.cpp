#include "mezzo/data/packed_data.h"

#include <bit>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/data/hash.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

// Counts up when the same corpus and options come to give other tokens.
constexpr uint64_t kPackingVersion = 1;

uint64_t key_of(const fs::path& corpus, const PackOptions& options,
                const std::optional<Tokenizer>& tokenizer) {
  Hasher hasher;
  hasher.add(kPackingVersion).add(corpus_fingerprint(corpus, options.corpus));
  hasher.add(std::bit_cast<uint64_t>(options.held_out_fraction));
  if (tokenizer) {
    hasher.add(tokenizer->hash());
  } else {
    hasher.add(static_cast<uint64_t>(options.vocab_size));
    hasher.add(static_cast<uint64_t>(options.tokenizer_bytes));
  }
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
    return {Tokenizer::load(folder / "tokenizer.json"), TokenFile::open(folder / "data.tokens"),
            folder, std::nullopt};
  } catch (const Error& error) {
    detail::fail<Error>("pack", "{} Hint: remove the folder {} and run again", error.what(),
                        folder.string());
  }
}

}  // namespace

PackedData open_or_pack(const fs::path& corpus, const fs::path& cache_folder,
                        const PackOptions& options, const std::optional<fs::path>& tokenizer) {
  std::optional<Tokenizer> given;
  if (tokenizer) given = Tokenizer::load(*tokenizer);
  const fs::path folder = folder_for(corpus, cache_folder, key_of(corpus, options, given));
  std::optional<PackStatistics> statistics;
  if (!fs::exists(folder)) {
    write_folder_atomically(folder, [&](const fs::path& temporary) {
      if (given) given->save(temporary / "tokenizer.json");
      statistics = pack(corpus, temporary / "tokenizer.json", temporary / "data.tokens", options);
    });
  }
  PackedData packed = open_packed(folder);
  packed.statistics = std::move(statistics);
  return packed;
}

}  // namespace mezzo::data
