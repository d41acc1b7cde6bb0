#include "mezzo/data/token_file.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>

#include <fmt/ranges.h>  // join

#include "mezzo/base/check.h"
#include "mezzo/data/hash.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

template <class T>
void widen(const std::byte* bytes, std::span<int64_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    T token;
    std::memcpy(&token, bytes + i * sizeof(T), sizeof(T));
    tokens[i] = token;
  }
}

// The tokens of `run` from `begin` on.
void read_run(const TokenRun& run, int64_t begin, std::span<int64_t> tokens) {
  const std::byte* bytes = run.file->bytes().data() + run.byte_offset + begin * run.bytes_per_token;
  run.bytes_per_token == 2 ? widen<uint16_t>(bytes, tokens) : widen<uint32_t>(bytes, tokens);
}

int64_t largest_token(const std::vector<TokenRun>& runs) {
  int64_t largest = 0;
  std::vector<int64_t> buffer(1 << 14);
  for (const TokenRun& run : runs) {
    for (int64_t done = 0; done < run.tokens; done += static_cast<int64_t>(buffer.size())) {
      const auto left = static_cast<size_t>(run.tokens - done);
      const auto part = std::span(buffer).first(std::min(buffer.size(), left));
      read_run(run, done, part);
      largest = std::max(largest, *std::max_element(part.begin(), part.end()));
    }
  }
  return largest;
}

// The names in `folder` that begin with `prefix` and end in .bin, sorted: the shards of one split.
std::vector<fs::path> shards(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && entry.path().extension() == ".bin") {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// "fineweb_train_000001.bin" -> "fineweb_"; nothing for other names.
std::optional<std::string> prefix_of_train_name(const fs::path& path) {
  const std::string name = path.filename().string();
  const size_t train = name.rfind("train");
  if (train == name.npos || path.extension() != ".bin") return std::nullopt;
  return name.substr(0, train);
}

std::set<std::string> train_prefixes(const fs::path& folder) {
  std::set<std::string> prefixes;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (const auto prefix = prefix_of_train_name(entry.path())) prefixes.insert(*prefix);
  }
  return prefixes;
}

struct SplitPaths {
  std::vector<fs::path> train;
  std::vector<fs::path> held_out;
};

SplitPaths find_splits(const fs::path& path) {
  if (fs::is_directory(path)) {
    const auto prefixes = train_prefixes(path);
    if (prefixes.empty() && fs::exists(path / kPackedTokens)) return {{path / kPackedTokens}, {}};
    MEZZO_CHECK_USAGE(
        !prefixes.empty(), "token_file",
        "the folder {} must hold {} or a .bin with \"train\" in its name, but holds none",
        path.string(), kPackedTokens);
    MEZZO_CHECK_USAGE(
        prefixes.size() == 1, "token_file",
        "the folder {} must hold one data set, but holds several (\"{}\"); name one train "
        "file",
        path.string(), fmt::join(prefixes, "\", \""));
    return {shards(path, *prefixes.begin() + "train"), shards(path, *prefixes.begin() + "val")};
  }
  SplitPaths splits{{path}, {}};
  if (const auto prefix = prefix_of_train_name(path)) {
    splits.held_out = shards(path.has_parent_path() ? path.parent_path() : ".", *prefix + "val");
  }
  return splits;
}

// Moves the last `tokens` of the train runs to the held-out runs.
void hold_out_tail(int64_t tokens, std::vector<TokenRun>& train, std::vector<TokenRun>& held_out) {
  while (tokens > 0) {
    TokenRun& last = train.back();
    const int64_t taken = std::min(tokens, last.tokens);
    TokenRun tail = last;
    last.tokens -= taken;
    tail.byte_offset += last.tokens * last.bytes_per_token;
    tail.tokens = taken;
    held_out.insert(held_out.begin(), tail);
    if (last.tokens == 0) train.pop_back();
    tokens -= taken;
  }
}

int64_t total_tokens(const std::vector<TokenRun>& runs) {
  int64_t total = 0;
  for (const TokenRun& run : runs) total += run.tokens;
  return total;
}

void hold_out_if_none(const fs::path& path, int64_t min_held_out, std::vector<TokenRun>& train,
                      std::vector<TokenRun>& held_out) {
  if (!held_out.empty()) return;
  const int64_t total = total_tokens(train);
  const int64_t tokens = std::max(total / 20, min_held_out);
  MEZZO_CHECK_USAGE(tokens < total, "token_file",
                    "{} must hold more tokens than the {} to hold out, but holds {}", path.string(),
                    tokens, total);
  hold_out_tail(tokens, train, held_out);
}

int64_t agree_on_vocab_size(const fs::path& path, std::optional<int64_t> stored, int64_t given) {
  MEZZO_CHECK_USAGE(given >= 0, "token_file", "vocab_size must not be negative, but is {}", given);
  MEZZO_CHECK_USAGE(
      stored || given > 0, "token_file",
      "{} has no header that says its vocabulary's size, so it must be given (vocab_size; "
      "50257 for GPT-2's tokenizer)",
      path.string());
  if (given == 0) return *stored;
  MEZZO_CHECK_USAGE(
      !stored || given >= *stored, "token_file",
      "{} is made with a vocabulary of {} tokens, so vocab_size must not be less, but is {}. Hint: "
      "--vocab-size {}",
      path.string(), *stored, given, *stored);
  return given;
}

// No hash of a foreign file says that its tokens are those of its vocabulary.
void check_tokens(const fs::path& path, int64_t vocab_size, const std::vector<TokenRun>& train,
                  const std::vector<TokenRun>& held_out) {
  const int64_t largest = std::max(largest_token(train), largest_token(held_out));
  MEZZO_CHECK_USAGE(
      largest < vocab_size, "token_file",
      "{} must hold tokens below {}, its vocabulary's size, but has {}. Hint: --vocab-size "
      "{}",
      path.string(), vocab_size, largest, largest + 1);
}

}  // namespace

TokenView::TokenView(std::string name, std::vector<TokenRun> runs, int64_t vocab_size)
    : name_(std::move(name)), runs_(std::move(runs)), vocab_size_(vocab_size) {
  for (const TokenRun& run : runs_) {
    begins_.push_back(size_);
    size_ += run.tokens;
  }
}

void TokenView::read(int64_t offset, std::span<int64_t> tokens) const {
  const auto count = static_cast<int64_t>(tokens.size());
  MEZZO_CHECK(offset >= 0 && offset <= size_ && count <= size_ - offset, "token_file",
              "a read of the {} split must lie within its {} tokens, but asks for {} from {} on",
              name_, size_, count, offset);
  // The last run that begins at or before the offset.
  auto at = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) -
                                begins_.begin());
  for (std::span<int64_t> left = tokens; !left.empty(); ++at) {
    const TokenRun& run = runs_[at - 1];
    const int64_t within = offset + count - static_cast<int64_t>(left.size()) - begins_[at - 1];
    const auto part = left.first(std::min(left.size(), static_cast<size_t>(run.tokens - within)));
    read_run(run, within, part);
    const auto bad =
        std::find_if(part.begin(), part.end(), [&](int64_t token) { return token >= vocab_size_; });
    MEZZO_CHECK(bad == part.end(), "token_file",
                "{} must hold tokens below {}, its vocabulary's size, but has {} at position {}",
                run.file->path().string(), vocab_size_, *bad,
                run.byte_offset / run.bytes_per_token + within + (bad - part.begin()));
    left = left.subspan(part.size());
  }
}

TokenFile::TokenFile(TokenView train, TokenView held_out, int64_t vocab_size,
                     std::optional<uint64_t> vocab_hash)
    : train_(std::move(train)),
      held_out_(std::move(held_out)),
      vocab_size_(vocab_size),
      vocab_hash_(vocab_hash) {}

TokenFile TokenFile::open(const fs::path& path, const TokenFileOptions& options) {
  MEZZO_CHECK_USAGE(fs::exists(path), "token_file",
                    "{} must be a file or a folder, but is not there", path.string());
  const SplitPaths paths = find_splits(path);
  std::vector<TokenRun> train;
  std::vector<TokenRun> held_out;
  std::optional<int64_t> stored_size;
  std::optional<uint64_t> vocab_hash;
  for (const fs::path& part : paths.train) {
    const auto content = read_token_format(part, options.verify_payload);
    train.push_back(content.train);
    if (content.held_out) held_out.push_back(*content.held_out);
    stored_size = content.vocab_size;
    vocab_hash = content.vocab_hash;
  }
  for (const fs::path& part : paths.held_out) {
    held_out.push_back(read_token_format(part, options.verify_payload).train);
  }
  const int64_t vocab_size = agree_on_vocab_size(path, stored_size, options.vocab_size);
  if (options.verify_payload && !vocab_hash) check_tokens(path, vocab_size, train, held_out);
  hold_out_if_none(path, options.min_held_out, train, held_out);
  return TokenFile(TokenView("train", std::move(train), vocab_size),
                   TokenView("held-out", std::move(held_out), vocab_size), vocab_size, vocab_hash);
}

uint64_t token_fingerprint(const TokenFile& tokens) {
  constexpr int64_t kStretches = 64;
  const TokenView& train = tokens.split(Split::train);
  Hasher hasher;
  hasher.add(static_cast<uint64_t>(train.size()));
  hasher.add(static_cast<uint64_t>(tokens.split(Split::held_out).size()));
  hasher.add(static_cast<uint64_t>(tokens.vocab_size()));
  hasher.add(tokens.vocab_hash().value_or(0));
  std::vector<int64_t> stretch(static_cast<size_t>(std::min<int64_t>(64, train.size())));
  const int64_t last = train.size() - static_cast<int64_t>(stretch.size());
  for (int64_t i = 0; i < kStretches; ++i) {
    train.read(last * i / (kStretches - 1), stretch);
    hasher.add_bytes(stretch.data(), stretch.size() * sizeof(int64_t));
  }
  return hasher.value();
}

bool is_token_data(const fs::path& path) {
  if (fs::is_directory(path))
    return fs::exists(path / kPackedTokens) || !train_prefixes(path).empty();
  if (path.extension() == ".bin") return true;
  std::string start(kTokenFileMagic.size(), '\0');
  std::ifstream(path, std::ios::binary).read(start.data(), static_cast<int64_t>(start.size()));
  return start == kTokenFileMagic;
}

}  // namespace mezzo::data
