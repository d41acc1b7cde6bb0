#include "mezzo/data/train_tokenizer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "mezzo/base/check.h"
#include "mezzo/data/bpe_trainer.h"
#include "mezzo/data/byte_alphabet.h"
#include "mezzo/data/parallel.h"
#include "mezzo/data/pretokenizer.h"
#include "mezzo/data/tokenizer_json.h"
#include "mezzo/data/utf8.h"
#include "mezzo/data/word_table.h"

namespace mezzo::data {
namespace {

constexpr const char* kEndOfText = "<|endoftext|>";
constexpr int64_t kBatches = 32;  // progress is told after each

// One thread's counts.
class WordCounter {
 public:
  void add(const PreTokenizer& splitter, std::string_view text) {
    splitter.split(text, scratch_, pieces_);
    for (const std::string_view piece : pieces_) {
      const auto [index, is_new] = words_.insert(piece);
      if (is_new) counts_.push_back(0);
      ++counts_[index];
    }
  }
  void add(const WordCounter& other) {
    for (uint32_t i = 0; i < other.words_.size(); ++i) {
      const auto [index, is_new] = words_.insert(other.words_.word(i));
      if (is_new) counts_.push_back(0);
      counts_[index] += other.counts_[i];
    }
  }
  // Sorted: which thread met a word first must not show.
  std::vector<WordCount> sorted() const {
    std::vector<WordCount> words;
    for (uint32_t i = 0; i < words_.size(); ++i) {
      words.push_back({std::string(words_.word(i)), counts_[i]});
    }
    std::sort(words.begin(), words.end(),
              [](const WordCount& a, const WordCount& b) { return a.word < b.word; });
    return words;
  }

 private:
  PreTokenizer::Scratch scratch_;
  std::vector<std::string_view> pieces_;
  WordTable words_;
  std::vector<int64_t> counts_;
};

std::vector<WordCount> count_words(const TextSource& texts, int threads,
                                   const std::function<void(double)>& progress) {
  const PreTokenizer splitter({std::string(kGpt2Pattern)});
  std::vector<WordCounter> counters(static_cast<size_t>(threads));
  const int64_t batch = (texts.count + kBatches - 1) / kBatches;
  for (int64_t begin = 0; begin < texts.count; begin += batch) {
    const int64_t end = std::min(texts.count, begin + batch);
    parallel_for(end - begin, threads, [&](int worker, int64_t i) {
      const std::string text = texts.text(begin + i);
      const auto invalid = find_invalid_utf8(text);
      MEZZO_CHECK(!invalid, "tokenizer", "text {} must be UTF-8, but byte {} is not", begin + i,
                  *invalid);
      counters[static_cast<size_t>(worker)].add(splitter, text);
    });
    if (progress) progress(static_cast<double>(end) / static_cast<double>(texts.count));
  }
  for (size_t i = 1; i < counters.size(); ++i) counters[0].add(counters[i]);
  return counters[0].sorted();
}

TokenizerParts parts_of(const BpeVocabulary& vocabulary) {
  TokenizerParts parts;
  for (const std::string& token : vocabulary.tokens) {
    parts.vocabulary.push_back(to_byte_alphabet(token));
  }
  parts.merges = vocabulary.merges;
  parts.added.push_back(
      {.id = 0, .content = kEndOfText, .is_special = true, .is_normalized = false});
  return parts;
}

}  // namespace

Tokenizer train_tokenizer(const TextSource& texts, const TrainTokenizerOptions& options) {
  // Counting and merging take about as long as each other; each is half of the progress.
  const auto report = [&](double fraction) {
    if (options.progress) options.progress(fraction);
  };
  const auto words = count_words(texts, thread_count(options.threads),
                                 [&](double fraction) { report(0.5 * fraction); });
  const auto vocabulary = train_bpe(words, options.vocab_size, kEndOfText, [&](int64_t tokens) {
    report(0.5 + 0.5 * static_cast<double>(tokens) / static_cast<double>(options.vocab_size));
  });
  report(1.0);
  return Tokenizer::parse(write_tokenizer_json(parts_of(vocabulary)), "the trained tokenizer");
}

Tokenizer train_tokenizer(std::span<const std::string> texts,
                          const TrainTokenizerOptions& options) {
  const TextSource source = {.count = static_cast<int64_t>(texts.size()),
                             .text = [&](int64_t i) { return texts[static_cast<size_t>(i)]; }};
  return train_tokenizer(source, options);
}

}  // namespace mezzo::data
