#pragma once

#include <cstdint>
#include <vector>

#include "mezzo/data/random.h"

namespace mezzo::data {

/// Two neighbouring tokens.
struct TokenPair {
  int32_t left = 0;
  int32_t right = 0;
  friend bool operator==(const TokenPair&, const TokenPair&) = default;
  friend auto operator<=>(const TokenPair&, const TokenPair&) = default;
};

/// TokenPair -> Value in one flat array: add and look up, no removal.
template <class Value>
class PairMap {
 public:
  PairMap() : slots_(64) {}

  const Value* find(TokenPair pair) const {
    const Slot& slot = slots_[slot_of(pair)];
    return slot.is_used ? &slot.value : nullptr;
  }

  /// The value of `pair`, made if it is not there. Valid until the next call.
  Value& operator[](TokenPair pair) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[slot_of(pair)];
    if (!slot.is_used) {
      slot = {pair, true, Value{}};
      ++size_;
    }
    return slot.value;
  }

 private:
  struct Slot {
    TokenPair pair;
    bool is_used = false;
    Value value{};
  };

  size_t slot_of(TokenPair pair) const {
    const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 |
                         static_cast<uint32_t>(pair.right);
    const size_t mask = slots_.size() - 1;
    size_t slot = mix64(key) & mask;
    while (slots_[slot].is_used && slots_[slot].pair != pair) slot = (slot + 1) & mask;
    return slot;
  }

  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.is_used) slots_[slot_of(slot.pair)] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t size_ = 0;
};

}  // namespace mezzo::data
