#include "mezzo/data/word_table.h"

#include <algorithm>

#include "mezzo/data/hash.h"

namespace mezzo::data {

WordTable::WordTable() : slots_(1024) {}

WordTable::Entry WordTable::insert(std::string_view word) {
  const uint64_t hash = hash_of(word);
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const uint32_t index = slots_[slot] - 1;
    if (words_[index].hash == hash && this->word(index) == word) return {index, false};
  }
  words_.push_back({hash, text_.size(), word.size()});
  text_ += word;
  slots_[slot] = static_cast<uint32_t>(words_.size());
  if (2 * words_.size() > slots_.size()) grow();
  return {static_cast<uint32_t>(words_.size() - 1), true};
}

std::string_view WordTable::word(uint32_t index) const {
  return std::string_view(text_).substr(words_[index].begin, words_[index].size);
}

void WordTable::clear() {
  words_.clear();
  text_.clear();
  std::fill(slots_.begin(), slots_.end(), 0);
}

void WordTable::grow() {
  slots_.assign(2 * slots_.size(), 0);
  const size_t mask = slots_.size() - 1;
  for (size_t index = 0; index < words_.size(); ++index) {
    size_t slot = words_[index].hash & mask;
    while (slots_[slot] != 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<uint32_t>(index + 1);
  }
}

}  // namespace mezzo::data
