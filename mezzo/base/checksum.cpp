#include "mezzo/base/checksum.h"

#include <fstream>
#include <memory>
#include <vector>

// Header-only: one library less to find at run time.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "mezzo/base/check.h"

namespace mezzo {
namespace {

std::string to_hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

std::string checksum_hex(std::string_view bytes) {
  return to_hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string file_checksum_hex(const std::filesystem::path& path) {
  MEZZO_CHECK(std::filesystem::is_regular_file(path), "checksum", "{} must be a file, but is {}",
              path.string(), std::filesystem::exists(path) ? "something else" : "not there");
  std::ifstream in(path, std::ios::binary);
  MEZZO_CHECK(in.good(), "checksum", "cannot open {}", path.string());

  std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  std::vector<char> block(size_t{1} << 20);
  while (in) {
    in.read(block.data(), static_cast<std::streamsize>(block.size()));
    XXH3_128bits_update(state.get(), block.data(), static_cast<size_t>(in.gcount()));
  }
  MEZZO_CHECK(in.eof() && !in.bad(), "checksum", "cannot read {} to its end", path.string());
  return to_hex(XXH3_128bits_digest(state.get()));
}

}  // namespace mezzo
