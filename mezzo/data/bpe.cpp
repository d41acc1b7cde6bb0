#include "mezzo/data/bpe.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "mezzo/base/check.h"

namespace mezzo::data {
namespace {

constexpr int32_t kNone = -1;

// A heap of the standard library has its largest on top: the lowest rank, then the leftmost.
bool comes_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
}

}  // namespace

Bpe::Bpe(const std::array<int32_t, 256>& byte_tokens, const std::vector<Merge>& merges,
         std::unordered_map<std::string, int32_t> whole_pieces)
    : byte_tokens_(byte_tokens), whole_pieces_(std::move(whole_pieces)) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    merges_[merges[rank].pair] = {static_cast<int32_t>(rank), merges[rank].result};
  }
}

const Bpe::Ranked* Bpe::merge_at(const Scratch& scratch, int32_t position) const {
  const Scratch::Node& node = scratch.nodes[position];
  if (node.token == kNone || node.next == kNone) return nullptr;
  return merges_.find({node.token, scratch.nodes[node.next].token});
}

void Bpe::push_candidate(Scratch& scratch, int32_t position) const {
  if (position == kNone) return;
  if (const Ranked* merge = merge_at(scratch, position)) {
    scratch.heap.push_back({merge->rank, position});
    std::push_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
  }
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (!whole_pieces_.empty()) {
    scratch.key.assign(piece);
    const auto found = whole_pieces_.find(scratch.key);
    if (found != whole_pieces_.end()) return ids.push_back(found->second);
  }
  MEZZO_CHECK(piece.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()), "tokenizer",
              "a piece of text must be shorter than 2^31 bytes, but is {}", piece.size());
  auto& nodes = scratch.nodes;
  const int32_t size = static_cast<int32_t>(piece.size());
  nodes.clear();
  for (int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(piece[i]);
    MEZZO_CHECK(byte_tokens_[byte] != kNoToken, "tokenizer",
                "the text must be of bytes that the vocabulary holds, but has byte 0x{:02X} in "
                "{:?}. Hint: take it out of the text",
                byte, piece.substr(0, 40));
    nodes.push_back({byte_tokens_[byte], i - 1, i + 1});
  }
  nodes.back().next = kNone;
  scratch.heap.clear();
  for (int32_t i = 0; i < size; ++i) push_candidate(scratch, i);

  while (!scratch.heap.empty()) {
    const Scratch::Candidate best = scratch.heap.front();
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
    scratch.heap.pop_back();
    const Ranked* merge = merge_at(scratch, best.position);
    // A neighbour was merged away since: a candidate for what stands here now was pushed then.
    if (merge == nullptr || merge->rank != best.rank) continue;
    Scratch::Node& left = nodes[best.position];
    Scratch::Node& right = nodes[left.next];
    left.token = merge->result;
    left.next = right.next;
    right.token = kNone;
    if (left.next != kNone) nodes[left.next].previous = best.position;
    push_candidate(scratch, left.previous);
    push_candidate(scratch, best.position);
  }
  for (int32_t i = 0; i != kNone; i = nodes[i].next) ids.push_back(nodes[i].token);
}

}  // namespace mezzo::data
