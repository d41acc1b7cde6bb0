#pragma once

#include <cstdint>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace mezzo::data {

/// XXH3, 64 bits: what every hash that this room stores in a file is made with.
inline uint64_t hash_of(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

/// A hash of values that are added one by one; each text carries its length, so that no two
/// different lists of values run together.
class Hasher {
 public:
  Hasher() { XXH3_64bits_reset(&state_); }
  Hasher& add(uint64_t value) { return add_bytes(&value, sizeof value); }
  Hasher& add(std::string_view text) {
    add(static_cast<uint64_t>(text.size()));
    return add_bytes(text.data(), text.size());
  }
  Hasher& add_bytes(const void* bytes, size_t size) {
    XXH3_64bits_update(&state_, bytes, size);
    return *this;
  }
  uint64_t value() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

}  // namespace mezzo::data
