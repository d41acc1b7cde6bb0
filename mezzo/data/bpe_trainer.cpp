#include "mezzo/data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "mezzo/base/check.h"
#include "mezzo/data/byte_alphabet.h"

namespace mezzo::data {
namespace {

using WordIndex = uint32_t;

// Note [Why a merged pair keeps its count]
// Equality with the package asks for its book-keeping, not only for its rule. There a pair's count
// is not taken back when it is merged, and a pair that comes into being again (two ways of merging
// may spell the same token) goes into the queue again, for the new places alone. Such a pair may
// be merged twice; its last merge gives its rank. This class does the same.
class Trainer {
 public:
  Trainer(const std::vector<WordCount>& words, const std::string& first_token) {
    add_token(first_token);
    for (const char byte : bytes_in_alphabet_order()) {
      byte_tokens_[static_cast<uint8_t>(byte)] = add_token(std::string(1, byte));
    }
    for (const WordCount& word : words) {
      begin_.push_back(symbols_.size());
      size_.push_back(static_cast<uint32_t>(word.word.size()));
      counts_.push_back(word.count);
      for (const char byte : word.word) {
        symbols_.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
      }
    }
    count_pairs();
  }

  BpeVocabulary train(int64_t vocab_size, const std::function<void(int64_t)>& progress) {
    while (static_cast<int64_t>(tokens_.size()) < vocab_size && !queue_.empty()) {
      Entry entry = queue_.top();
      queue_.pop();
      const int64_t count = pair_counts_[entry.pair];
      if (entry.count != count) {  // other merges changed it since
        entry.count = count;
        queue_.push(entry);
        continue;
      }
      if (count < 1) break;
      merge(entry);
      if (progress && tokens_.size() % 256 == 0) progress(static_cast<int64_t>(tokens_.size()));
    }
    return {std::move(tokens_), last_of_each(merges_)};
  }

 private:
  struct Entry {
    int64_t count;
    TokenPair pair;
    uint32_t places;  // index into places_: the words to merge in

    // The top of a std::priority_queue is the largest.
    bool operator<(const Entry& other) const {
      return std::tie(count, other.pair, other.places) < std::tie(other.count, pair, places);
    }
  };

  int32_t add_token(const std::string& bytes) {
    const auto [found, is_new] = ids_.emplace(bytes, static_cast<int32_t>(tokens_.size()));
    if (is_new) tokens_.push_back(bytes);
    return found->second;
  }

  void count_pairs() {
    for (WordIndex word = 0; word < counts_.size(); ++word) {
      const int32_t* symbols = symbols_.data() + begin_[word];
      for (uint32_t i = 0; i + 1 < size_[word]; ++i) {
        change({symbols[i], symbols[i + 1]}, +1, word);
      }
    }
    enqueue_new_places();
  }

  void change(TokenPair pair, int sign, WordIndex word) {
    pair_counts_[pair] += sign * counts_[word];
    if (sign < 0) return;
    uint32_t& places = new_places_[pair];  // index + 1
    if (places == 0) {
      places_.emplace_back();
      new_pairs_.push_back(pair);
      places = static_cast<uint32_t>(places_.size());
    }
    std::vector<WordIndex>& words = places_[places - 1];
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  void enqueue_new_places() {
    for (const TokenPair pair : new_pairs_) {
      const int64_t count = pair_counts_[pair];
      if (count > 0) queue_.push({count, pair, new_places_[pair] - 1});
    }
    new_pairs_.clear();
    new_places_ = {};
  }

  void merge(const Entry& entry) {
    const auto [left, right] = entry.pair;
    const int32_t result = add_token(tokens_[left] + tokens_[right]);
    merges_.push_back({entry.pair, result});
    const std::vector<WordIndex> words = std::move(places_[entry.places]);
    for (const WordIndex word : words) merge_in(word, entry.pair, result);
    enqueue_new_places();
  }

  void merge_in(WordIndex word, TokenPair pair, int32_t result) {
    int32_t* symbols = symbols_.data() + begin_[word];
    const uint32_t size = size_[word];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < size; ++i) {
      const bool is_here = symbols[i] == pair.left && i + 1 < size && symbols[i + 1] == pair.right;
      if (!is_here) {
        symbols[kept++] = symbols[i];
        continue;
      }
      if (kept > 0) {
        change({symbols[kept - 1], pair.left}, -1, word);
        change({symbols[kept - 1], result}, +1, word);
      }
      ++i;
      if (i + 1 < size) {
        change({pair.right, symbols[i + 1]}, -1, word);
        change({result, symbols[i + 1]}, +1, word);
      }
      symbols[kept++] = result;
    }
    size_[word] = kept;
  }

  static std::vector<Bpe::Merge> last_of_each(const std::vector<Bpe::Merge>& merges) {
    PairMap<size_t> last;
    for (size_t rank = 0; rank < merges.size(); ++rank) last[merges[rank].pair] = rank;
    std::vector<Bpe::Merge> kept;
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      if (*last.find(merges[rank].pair) == rank) kept.push_back(merges[rank]);
    }
    return kept;
  }

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::array<int32_t, 256> byte_tokens_{};
  std::vector<Bpe::Merge> merges_;

  // Word w is symbols_[begin_[w]] onward, size_[w] of them, and comes counts_[w] times.
  std::vector<int32_t> symbols_;
  std::vector<size_t> begin_;
  std::vector<uint32_t> size_;
  std::vector<int64_t> counts_;

  PairMap<int64_t> pair_counts_;
  std::priority_queue<Entry> queue_;
  std::vector<std::vector<WordIndex>> places_;
  PairMap<uint32_t> new_places_;  // since the last enqueue_new_places
  std::vector<TokenPair> new_pairs_;
};

}  // namespace

BpeVocabulary train_bpe(const std::vector<WordCount>& words, int64_t vocab_size,
                        const std::string& first_token,
                        const std::function<void(int64_t)>& progress) {
  MEZZO_CHECK_USAGE(vocab_size >= 257, "tokenizer",
                    "a vocabulary must have at least 257 tokens (256 bytes and {}), but {} are "
                    "asked for",
                    first_token, vocab_size);
  return Trainer(words, first_token).train(vocab_size, progress);
}

}  // namespace mezzo::data
