#include "mezzo/data/corpus.h"

#include <algorithm>
#include <optional>

#include "mezzo/base/check.h"
#include "mezzo/data/hash.h"
#include "mezzo/data/parallel.h"
#include "mezzo/data/random.h"
#include "mezzo/data/text_files.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

// Where to end a piece that begins at `begin`: after a blank line, else a line end, else between
// characters, at `target` bytes or a little more.
int64_t end_of_piece(const TextFile& file, int64_t begin, int64_t target) {
  const int64_t earliest = begin + target;
  // A rest of less than half a piece is not worth a document.
  if (file.bytes - earliest < target / 2) return file.bytes;
  const int64_t window = std::min<int64_t>({target, 64 << 10, file.bytes - earliest});
  const std::string text = read_range(file.path, earliest, window);
  for (const std::string_view blank : {"\n\n", "\n\r\n"}) {
    if (const size_t at = text.find(blank); at != text.npos)
      return earliest + static_cast<int64_t>(at + blank.size());
  }
  if (const size_t line = text.find('\n'); line != text.npos) {
    return earliest + static_cast<int64_t>(line) + 1;
  }
  int64_t end = 0;
  while (end < window && (static_cast<uint8_t>(text[static_cast<size_t>(end)]) & 0xC0) == 0x80)
    ++end;
  return earliest + end;
}

void append_documents(const TextFile& file, int64_t corpus_bytes,
                      std::vector<Document>& documents) {
  if (file.bytes <= corpus_bytes / 20) {
    documents.push_back({file.path, 0, file.bytes});
    return;
  }
  const int64_t target = std::clamp<int64_t>(corpus_bytes / 200, 1 << 10, 1 << 20);
  for (int64_t begin = 0; begin < file.bytes;) {
    const int64_t end = end_of_piece(file, begin, target);
    documents.push_back({file.path, begin, end - begin});
    begin = end;
  }
}

std::string_view way_out(std::string_view fault) {
  if (fault.ends_with("not UTF-8")) return ". Hint: convert it with iconv";
  if (fault.ends_with("NUL"))
    return ". Hint: if it holds tokens, 16 bits each as nanoGPT writes them, give it a name that "
           "ends in .bin";
  return "";
}

}  // namespace

Corpus scan_corpus(const fs::path& path, const CorpusOptions& options) {
  const auto files = list_text_files(path, options.extensions);
  std::vector<std::optional<std::string>> faults(files.size());
  parallel_for(static_cast<int64_t>(files.size()), thread_count(options.threads),
               [&](int, int64_t i) {
                 faults[static_cast<size_t>(i)] = why_not_text(files[static_cast<size_t>(i)]);
               });
  Corpus corpus;
  std::vector<TextFile> texts;
  for (size_t i = 0; i < files.size(); ++i) {
    if (faults[i]) {
      MEZZO_CHECK_USAGE(fs::is_directory(path), "corpus", "{} must be UTF-8 text, but {}{}",
                        path.string(), *faults[i], way_out(*faults[i]));
      corpus.skipped.push_back({files[i].path, *faults[i]});
    } else {
      texts.push_back(files[i]);
      corpus.bytes += files[i].bytes;
    }
  }
  MEZZO_CHECK_USAGE(
      !texts.empty(), "corpus",
      "the folder {} must hold a text file, but all {} files were skipped; the first, {}, {}",
      path.string(), files.size(), files[0].path.string(), *faults[0]);
  corpus.files = static_cast<int64_t>(texts.size());
  for (const TextFile& file : texts) append_documents(file, corpus.bytes, corpus.documents);
  shuffle(corpus.documents, Random(options.shuffle_seed));
  return corpus;
}

std::string read_document(const Document& document) {
  return read_range(document.path, document.offset, document.bytes);
}

uint64_t corpus_fingerprint(const fs::path& path, const CorpusOptions& options) {
  Hasher hasher;
  hasher.add(options.shuffle_seed);
  for (const TextFile& file : list_text_files(path, options.extensions)) {
    hasher.add(file.path.string());
    hasher.add(static_cast<uint64_t>(file.bytes)).add(static_cast<uint64_t>(file.modified_ns));
  }
  return hasher.value();
}

}  // namespace mezzo::data
