#include "mezzo/data/tokenizer.h"

#include <unordered_map>
#include <utility>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/data/added_tokens.h"
#include "mezzo/data/bpe.h"
#include "mezzo/data/byte_alphabet.h"
#include "mezzo/data/encoder.h"
#include "mezzo/data/hash.h"
#include "mezzo/data/pretokenizer.h"
#include "mezzo/data/tokenizer_json.h"

namespace mezzo::data {
namespace {

// A vocabulary may lack some, as SmolLM2's does: 13 of the 256 are in no text in UTF-8.
std::array<int32_t, 256> byte_tokens_of(const std::unordered_map<std::string, int32_t>& id_of) {
  std::array<int32_t, 256> tokens{};
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = id_of.find(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
    tokens[byte] = found == id_of.end() ? Bpe::kNoToken : found->second;
  }
  return tokens;
}

uint64_t hash_of(const TokenizerParts& parts) {
  Hasher hasher;
  hasher.add(parts.vocabulary.size());
  for (const std::string& token : parts.vocabulary) hasher.add(token);
  hasher.add(parts.merges.size());
  for (const Bpe::Merge& merge : parts.merges) {
    hasher.add(static_cast<uint64_t>(merge.pair.left)).add(static_cast<uint64_t>(merge.pair.right));
  }
  hasher.add(parts.patterns.size());
  for (const std::string& pattern : parts.patterns) hasher.add(pattern);
  hasher.add(parts.added.size());
  for (const AddedToken& token : parts.added) {
    hasher.add(static_cast<uint64_t>(token.id))
        .add(token.content)
        .add(uint64_t{token.is_normalized});
  }
  return hasher.add(uint64_t{parts.ignore_merges}).value();
}

// What each id decodes to. An added token is its content, whatever its characters stand for.
std::vector<std::string> bytes_of(const TokenizerParts& parts) {
  std::vector<std::string> bytes;
  for (const std::string& token : parts.vocabulary) {
    bytes.push_back(from_byte_alphabet(token).value_or(token));
  }
  for (const AddedToken& token : parts.added) bytes[token.id] = token.content;
  return bytes;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(std::string text, std::string_view name) : Impl(parse_tokenizer_json(text, name), text) {}

  Impl(const TokenizerParts& parts, const std::string& text)
      : json(text),
        bytes(bytes_of(parts)),
        added(parts.added),
        pre_tokenizer(parts.patterns),
        bpe(byte_tokens_of(ids_of(parts.vocabulary)), parts.merges, whole_pieces(parts)),
        hash(hash_of(parts)) {}

  static std::unordered_map<std::string, int32_t> ids_of(const std::vector<std::string>& tokens) {
    std::unordered_map<std::string, int32_t> ids;
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (!tokens[id].empty()) ids.emplace(tokens[id], static_cast<int32_t>(id));
    }
    return ids;
  }

  // Added tokens that are not in the model's own vocabulary cannot come here: they are taken out
  // of the text before it is split.
  static std::unordered_map<std::string, int32_t> whole_pieces(const TokenizerParts& parts) {
    std::unordered_map<std::string, int32_t> pieces;
    if (!parts.ignore_merges) return pieces;
    for (size_t id = 0; id < parts.vocabulary.size(); ++id) {
      if (auto bytes = from_byte_alphabet(parts.vocabulary[id]); bytes && !bytes->empty()) {
        pieces.emplace(*bytes, static_cast<int32_t>(id));
      }
    }
    return pieces;
  }

  std::string json;
  std::vector<std::string> bytes;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  uint64_t hash;
};

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return parse(read_file(path), path.string());
}

Tokenizer Tokenizer::parse(std::string_view json, std::string_view name) {
  return Tokenizer(std::make_shared<const Impl>(std::string(json), name));
}

void Tokenizer::save(const std::filesystem::path& path) const {
  write_file_atomically(path, impl_->json);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  Encoder(*this).encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    MEZZO_CHECK(id >= 0 && id < vocab_size() && !impl_->bytes[id].empty(), "tokenizer.decode",
                "every id must be one of the vocabulary's {}, but id {} at position {} is not",
                vocab_size(), id, i);
    text += impl_->bytes[id];
  }
  return text;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->bytes.size()); }

std::vector<int64_t> Tokenizer::gaps() const {
  std::vector<int64_t> gaps;
  for (int64_t id = 0; id < vocab_size(); ++id)
    if (impl_->bytes[static_cast<size_t>(id)].empty()) gaps.push_back(id);
  return gaps;
}

uint64_t Tokenizer::hash() const { return impl_->hash; }

std::optional<int32_t> Tokenizer::end_of_text() const {
  for (const std::string_view name : {"<|endoftext|>", "<|end_of_text|>", "</s>"}) {
    for (const AddedToken& token : impl_->added.tokens()) {
      if (token.content == name) return token.id;
    }
  }
  return std::nullopt;
}

const AddedTokens& Tokenizer::added_tokens() const { return impl_->added; }
const PreTokenizer& Tokenizer::pre_tokenizer() const { return impl_->pre_tokenizer; }
const Bpe& Tokenizer::bpe() const { return impl_->bpe; }

}  // namespace mezzo::data
