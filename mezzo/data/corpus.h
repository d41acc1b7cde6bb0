#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace mezzo::data {

struct CorpusOptions {
  std::vector<std::string> extensions = {};  // of the files to read in a folder; none: all
  uint64_t shuffle_seed = 1;                 // of the order of the documents
  int threads = 0;                           // 0: as many as the machine has processors
};

/// A file, or a part of a large one.
struct Document {
  std::filesystem::path path;
  int64_t offset = 0;
  int64_t bytes = 0;
};

struct SkippedFile {
  std::filesystem::path path;
  std::string reason;  // "is empty", "byte 17 is not UTF-8", "byte 0 is NUL", ...
};

struct Corpus {
  std::vector<Document> documents;  // shuffled
  std::vector<SkippedFile> skipped;
  int64_t files = 0;  // that the documents come from
  int64_t bytes = 0;
};

/// Finds the documents of a text file or a folder (list_text_files says which files). A file is one
/// document, but for a file that is more than 1/20 of the corpus (such as one given alone): that is
/// cut into pieces of about 1/200 of the corpus (1 KiB to 1 MiB) at blank lines, else at line ends,
/// so that whole documents can be held out. Files in a folder that are no UTF-8 text are skipped;
/// a file given itself must be text, else UsageError, as for a folder without any.
/// The order depends on the seed, the sorted paths and the sizes, on nothing else.
Corpus scan_corpus(const std::filesystem::path& path, const CorpusOptions& options = {});

std::string read_document(const Document& document);

/// A number that changes with the paths, sizes and times of change of the corpus's files and with
/// the options that choose and order them.
uint64_t corpus_fingerprint(const std::filesystem::path& path, const CorpusOptions& options = {});

}  // namespace mezzo::data
