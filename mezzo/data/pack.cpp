#include "mezzo/data/pack.h"

#include <span>

#include "mezzo/base/check.h"
#include "mezzo/data/encoder.h"
#include "mezzo/data/parallel.h"
#include "mezzo/data/token_file_writer.h"
#include "mezzo/data/train_tokenizer.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatchBytes = 8 << 20;

using Documents = std::span<const Document>;

int64_t bytes_of(Documents documents) {
  int64_t bytes = 0;
  for (const Document& document : documents) bytes += document.bytes;
  return bytes;
}

// The first documents, up to `bytes` in all, but at least one.
Documents first_bytes(Documents documents, int64_t bytes) {
  size_t count = 1;
  for (int64_t total = documents[0].bytes; count < documents.size(); ++count) {
    total += documents[count].bytes;
    if (total > bytes) break;
  }
  return documents.first(count);
}

// How many documents, from the end, are held out.
size_t count_held_out(Documents documents, double fraction) {
  const double wanted = fraction * static_cast<double>(bytes_of(documents));
  size_t count = 0;
  for (double bytes = 0; count < documents.size() - 1 && (count == 0 || bytes < wanted); ++count) {
    bytes += static_cast<double>(documents[documents.size() - 1 - count].bytes);
  }
  return count;
}

class Packer {
 public:
  Packer(const PackOptions& options) : options_(options) {}

  PackStatistics pack(const fs::path& corpus_path, const fs::path& tokenizer_path,
                      const fs::path& token_path) {
    report("scan", 0);
    const Corpus corpus = scan_corpus(corpus_path, options_.corpus);
    report("scan", 1);
    const Documents documents = corpus.documents;
    MEZZO_CHECK_USAGE(
        documents.size() >= 2, "pack",
        "{} must hold at least 2 documents, one to train on and one to hold out, but holds "
        "{} of {} bytes. Hint: more text",
        corpus_path.string(), documents.size(), corpus.bytes);
    const size_t held_out = count_held_out(documents, options_.held_out_fraction);
    const Documents train = documents.first(documents.size() - held_out);
    const bool is_new = !fs::exists(tokenizer_path);
    const Tokenizer tokenizer = is_new ? new_tokenizer(train) : Tokenizer::load(tokenizer_path);

    stats_.files = corpus.files;
    stats_.documents = static_cast<int64_t>(documents.size());
    stats_.held_out_documents = static_cast<int64_t>(held_out);
    stats_.skipped = corpus.skipped;
    stats_.bytes = corpus.bytes;
    write(tokenizer, train, documents.last(held_out), token_path);
    // Last: without its tokens, the next corpus would be packed with it.
    if (is_new) tokenizer.save(tokenizer_path);
    return stats_;
  }

 private:
  void report(std::string_view phase, double fraction) const {
    if (options_.progress) options_.progress(phase, fraction);
  }

  Tokenizer new_tokenizer(Documents train) const {
    if (options_.tokenizer) return *options_.tokenizer;
    const Documents sample = first_bytes(train, options_.tokenizer_bytes);
    report("train tokenizer", 0);
    const TextSource texts = {.count = static_cast<int64_t>(sample.size()), .text = [&](int64_t i) {
                                return read_document(sample[static_cast<size_t>(i)]);
                              }};
    return train_tokenizer(
        texts, {.vocab_size = options_.vocab_size,
                .threads = options_.corpus.threads,
                .progress = [&](double fraction) { report("train tokenizer", fraction); }});
  }

  void write(const Tokenizer& tokenizer, Documents train, Documents held_out,
             const fs::path& path) {
    const auto end_of_text = tokenizer.end_of_text();
    MEZZO_CHECK(end_of_text, "pack",
                "the tokenizer must have an added token that ends a document (<|endoftext|>, "
                "<|end_of_text|> or </s>), but has none");
    report("encode", 0);
    TokenFileWriter writer(path, tokenizer.vocab_size(), tokenizer.hash());
    const int threads = thread_count(options_.corpus.threads);
    std::vector<Encoder> encoders;
    for (int i = 0; i < threads; ++i) encoders.emplace_back(tokenizer);
    stats_.train_tokens = append(writer, Split::train, train, *end_of_text, encoders);
    stats_.held_out_tokens = append(writer, Split::held_out, held_out, *end_of_text, encoders);
    writer.finish();
    report("encode", 1);
  }

  int64_t append(TokenFileWriter& writer, Split split, Documents documents, int32_t end_of_text,
                 std::vector<Encoder>& encoders) {
    int64_t tokens = 0;
    while (!documents.empty()) {
      const Documents batch = first_bytes(documents, kBatchBytes);
      documents = documents.subspan(batch.size());
      std::vector<std::vector<int32_t>> ids(batch.size());
      parallel_for(static_cast<int64_t>(batch.size()), static_cast<int>(encoders.size()),
                   [&](int worker, int64_t i) {
                     encode(batch[static_cast<size_t>(i)], encoders[static_cast<size_t>(worker)],
                            end_of_text, ids[static_cast<size_t>(i)]);
                   });
      for (const auto& document : ids) {
        writer.append(split, document);
        tokens += static_cast<int64_t>(document.size());
      }
      encoded_bytes_ += bytes_of(batch);
      report("encode",
             0.999 * static_cast<double>(encoded_bytes_) / static_cast<double>(stats_.bytes));
    }
    return tokens;
  }

  static void encode(const Document& document, Encoder& encoder, int32_t end_of_text,
                     std::vector<int32_t>& ids) {
    try {
      encoder.encode(read_document(document), ids);
    } catch (const Error& error) {
      detail::fail<Error>("pack", "{}, the part from byte {} on: {}", document.path.string(),
                          document.offset, error.what());
    }
    ids.push_back(end_of_text);
  }

  const PackOptions& options_;
  PackStatistics stats_;
  int64_t encoded_bytes_ = 0;
};

}  // namespace

PackStatistics pack(const fs::path& corpus, const fs::path& tokenizer, const fs::path& token_file,
                    const PackOptions& options) {
  const double fraction = options.held_out_fraction;
  MEZZO_CHECK_USAGE(fraction > 0 && fraction < 1, "pack",
                    "held-out must lie between 0 and 1, but is {}", fraction);
  return Packer(options).pack(corpus, tokenizer, token_file);
}

}  // namespace mezzo::data
