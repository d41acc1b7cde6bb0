#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::data {

/// A set of words, numbered 0, 1, 2 ... as they come in. One look-up per word of a corpus is what
/// counting and encoding spend their time on; std::unordered_map<std::string, ...> takes twice as
/// long and an allocation a word.
class WordTable {
 public:
  WordTable();
  struct Entry {
    uint32_t index;
    bool is_new;
  };
  Entry insert(std::string_view word);
  /// Valid until the next insert.
  std::string_view word(uint32_t index) const;
  size_t size() const { return words_.size(); }
  size_t bytes() const { return text_.size(); }
  void clear();

 private:
  struct Word {
    uint64_t hash;
    uint64_t begin;
    uint64_t size;
  };
  void grow();

  std::vector<uint32_t> slots_;  // index + 1; 0 is free; a power of two, at most half full
  std::vector<Word> words_;
  std::string text_;
};

}  // namespace mezzo::data
