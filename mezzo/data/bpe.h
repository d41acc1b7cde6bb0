#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mezzo/data/pair_map.h"

namespace mezzo::data {

/// Byte pair encoding of one piece of text: the merge of the lowest rank first, among equals the
/// leftmost. Immutable; any number of threads may share it.
class Bpe {
 public:
  struct Merge {
    TokenPair pair;
    int32_t result = 0;
  };

  static constexpr int32_t kNoToken = -1;

  /// byte_tokens   the token of each byte, or kNoToken
  /// merges        by rank; of a pair that comes twice the last counts, as tokenizers has it
  /// whole_pieces  a piece that is in here is that one token, whatever the merges say
  Bpe(const std::array<int32_t, 256>& byte_tokens, const std::vector<Merge>& merges,
      std::unordered_map<std::string, int32_t> whole_pieces);

  /// Working memory of one thread.
  struct Scratch {
    struct Node {
      int32_t token;
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;
    };
    std::vector<Node> nodes;
    std::vector<Candidate> heap;
    std::string key;
  };

  /// Appends the tokens of `piece` (not empty, under 2^31 bytes). O(n log n). Throws Error, naming
  /// it, for a byte without a token.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Ranked {
    int32_t rank = 0;
    int32_t result = 0;
  };
  const Ranked* merge_at(const Scratch& scratch, int32_t position) const;
  void push_candidate(Scratch& scratch, int32_t position) const;

  std::array<int32_t, 256> byte_tokens_;
  PairMap<Ranked> merges_;
  std::unordered_map<std::string, int32_t> whole_pieces_;
};

}  // namespace mezzo::data
