#include "mezzo/data/tokenizer_json.h"

#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "mezzo/data/pretokenizer.h"

namespace mezzo::data {
namespace {

using Json = nlohmann::json;

// Sixteen times the largest vocabulary in use; an id is an index into arrays.
constexpr int64_t kMostTokens = 1 << 22;

// A value in an error: enough to recognise it by.
std::string brief(const Json& value) {
  std::string text = value.dump();
  // The cut may fall within a character; an error text shows such bytes as they are.
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

class Reader {
 public:
  explicit Reader(std::string_view name) : name_(name) {}

  TokenizerParts read(const Json& root) {
    require(root.is_object(), "the file", "be an object", root);
    for (const char* field : {"normalizer", "truncation", "padding"}) {
      const Json& value = get(root, field);
      require(value.is_null(), field, "be null, the only kind Mezzo reads", value);
    }
    read_model(get(root, "model"));
    read_added(get(root, "added_tokens"));
    const Json& splitter = get(root, "pre_tokenizer");
    read_pre_tokenizer(splitter);
    require(has_byte_level_, "pre_tokenizer", "hold a ByteLevel", splitter);
    const Json& decoder = get(root, "decoder");
    require(decoder.is_null() || type_of(decoder) == "ByteLevel", "decoder",
            "be null or ByteLevel, the kinds Mezzo reads", decoder);
    return std::move(parts_);
  }

 private:
  void require(bool ok, std::string_view field, std::string_view rule, const Json& value) const {
    MEZZO_CHECK(ok, "tokenizer", "{}: {} must {}, but is {}", name_, field, rule, brief(value));
  }

  // Absent and null say the same in a tokenizer.json.
  static const Json& get(const Json& object, const char* key) {
    static const Json null;
    const auto found = object.find(key);
    return found == object.end() ? null : *found;
  }

  static std::string type_of(const Json& object) {
    const Json& type = object.is_object() ? get(object, "type") : object;
    return type.is_string() ? type.get<std::string>() : "";
  }

  bool get_bool(const Json& object, const char* key, bool if_absent) const {
    const Json& value = get(object, key);
    if (value.is_null()) return if_absent;
    require(value.is_boolean(), key, "be true or false", value);
    return value.get<bool>();
  }

  int32_t get_id(const Json& value, std::string_view field) const {
    const bool ok = value.is_number_integer() && value >= 0 && value < kMostTokens;
    require(ok, field, "be a token id from 0 to 2^22 - 1", value);
    return value.get<int32_t>();
  }

  void read_model(const Json& model) {
    require(model.is_object(), "model", "be an object", model);
    // GPT-2's own file is older than the field.
    const Json& type = get(model, "type");
    require(type.is_null() || type == "BPE", "model.type", "be BPE, the only kind Mezzo reads",
            type);
    const Json& dropout = get(model, "dropout");
    require(dropout.is_null() || dropout == 0.0, "model.dropout", "be null", dropout);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = get(model, key);
      require(value.is_null() || value == "", key, "be null or empty", value);
    }
    // unk_token, fuse_unk and byte_fallback act on bytes that the vocabulary does not hold, which
    // encode() refuses.
    parts_.ignore_merges = get_bool(model, "ignore_merges", false);
    read_vocabulary(get(model, "vocab"));
    read_merges(get(model, "merges"));
  }

  void read_vocabulary(const Json& vocabulary) {
    require(vocabulary.is_object() && !vocabulary.empty(), "model.vocab",
            "be an object of token: id", vocabulary);
    for (const auto& [token, value] : vocabulary.items()) {
      const int32_t id = get_id(value, fmt::format("the id of vocabulary token '{}'", token));
      MEZZO_CHECK(!token.empty(), "tokenizer", "{}: the token of id {} must not be empty, but is",
                  name_, id);
      place(token, id);
      id_of_.emplace(token, id);
    }
  }

  void place(const std::string& token, int32_t id) {
    auto& tokens = parts_.vocabulary;
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    MEZZO_CHECK(tokens[id].empty(), "tokenizer",
                "{}: id {} must belong to one token, but belongs to '{}' and '{}'", name_, id,
                tokens[id], token);
    tokens[id] = token;
  }

  int32_t known_id(const std::string& token, size_t rank) const {
    const auto found = id_of_.find(token);
    MEZZO_CHECK(found != id_of_.end(), "tokenizer",
                "{}: merge {} uses the token '{}', which must be in the vocabulary, but is not",
                name_, rank, token);
    return found->second;
  }

  void read_merges(const Json& merges) {
    require(merges.is_array(), "model.merges", "be an array", merges);
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const auto [left, right] = read_merge(merges[rank], rank);
      parts_.merges.push_back(
          {{known_id(left, rank), known_id(right, rank)}, known_id(left + right, rank)});
    }
  }

  std::pair<std::string, std::string> read_merge(const Json& merge, size_t rank) const {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    }
    if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space != text.npos && text.find(' ', space + 1) == text.npos) {
        return {text.substr(0, space), text.substr(space + 1)};
      }
    }
    require(false, fmt::format("merge {}", rank), R"(be "a b" or ["a", "b"])", merge);
    return {};
  }

  void read_added(const Json& added) {
    if (added.is_null()) return;
    require(added.is_array(), "added_tokens", "be an array", added);
    for (const Json& entry : added) {
      require(entry.is_object() && get(entry, "content").is_string(), "an added token",
              "have a content", entry);
      AddedToken token;
      token.content = entry["content"].get<std::string>();
      token.id = get_id(get(entry, "id"), fmt::format("the id of '{}'", token.content));
      token.is_special = get_bool(entry, "special", false);
      token.is_normalized = get_bool(entry, "normalized", !token.is_special);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        require(!get_bool(entry, key, false), fmt::format("{} of an added token", key),
                "be false, the only kind Mezzo reads", entry);
      }
      require(!token.content.empty(), "an added token", "have a content", entry);
      add(std::move(token));
    }
  }

  void add(AddedToken token) {
    const auto known = id_of_.find(token.content);
    if (known == id_of_.end()) {
      place(token.content, token.id);
      id_of_.emplace(token.content, token.id);
    } else {
      MEZZO_CHECK(known->second == token.id, "tokenizer",
                  "{}: the added token '{}' must have its id in the vocabulary, {}, but has {}",
                  name_, token.content, known->second, token.id);
    }
    parts_.added.push_back(std::move(token));
  }

  void read_pre_tokenizer(const Json& splitter) {
    const std::string type = type_of(splitter);
    if (type == "Sequence") {
      const Json& parts = get(splitter, "pretokenizers");
      require(parts.is_array(), "pre_tokenizer.pretokenizers", "be an array", parts);
      for (const Json& part : parts) {
        require(type_of(part) != "Sequence", "a part of a Sequence", "not be a Sequence", part);
        read_pre_tokenizer(part);
      }
      return;
    }
    // After a ByteLevel the text is spelled in the byte alphabet: a pattern would mean other bytes.
    require(!has_byte_level_, "pre_tokenizer", "end with ByteLevel, but this follows it", splitter);
    if (type == "ByteLevel") return read_byte_level(splitter);
    if (type == "Split") return read_split(splitter);
    if (type == "Digits") {
      const bool is_single = get_bool(splitter, "individual_digits", false);
      parts_.patterns.push_back(is_single ? R"(\p{N})" : R"(\p{N}+)");
      return;
    }
    require(false, "pre_tokenizer", "be ByteLevel, Split, Digits or a Sequence of these", splitter);
  }

  void read_byte_level(const Json& splitter) {
    require(!get_bool(splitter, "add_prefix_space", true), "pre_tokenizer.add_prefix_space",
            "be false, the only kind Mezzo reads", splitter);
    if (get_bool(splitter, "use_regex", true)) parts_.patterns.emplace_back(kGpt2Pattern);
    has_byte_level_ = true;
  }

  void read_split(const Json& splitter) {
    const Json& pattern = get(splitter, "pattern");
    const bool is_regex = pattern.is_object() && get(pattern, "Regex").is_string();
    require(is_regex, "pre_tokenizer.pattern", "be a Regex, the only kind Mezzo reads", splitter);
    require(get(splitter, "behavior") == "Isolated", "pre_tokenizer.behavior",
            "be Isolated, the only kind Mezzo reads", splitter);
    require(!get_bool(splitter, "invert", false), "pre_tokenizer.invert",
            "be false, the only kind Mezzo reads", splitter);
    parts_.patterns.push_back(pattern["Regex"].get<std::string>());
  }

  std::string_view name_;
  TokenizerParts parts_;
  std::unordered_map<std::string, int32_t> id_of_;
  bool has_byte_level_ = false;
};

}  // namespace

TokenizerParts parse_tokenizer_json(std::string_view text, std::string_view name) {
  try {
    return Reader(name).read(Json::parse(text));
  } catch (const Json::exception& error) {
    detail::fail<Error>("tokenizer", "{} must be JSON of a tokenizer, but: {}", name, error.what());
  }
}

std::string write_tokenizer_json(const TokenizerParts& parts) {
  using Ordered = nlohmann::ordered_json;
  Ordered added = Ordered::array();
  for (const AddedToken& token : parts.added) {
    added.push_back(Ordered{{"id", token.id},
                            {"content", token.content},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", token.is_normalized},
                            {"special", token.is_special}});
  }
  const Ordered byte_level = {{"type", "ByteLevel"},
                              {"add_prefix_space", false},
                              {"trim_offsets", true},
                              {"use_regex", true}};
  // Members of an ordered_json are searched for one by one when set; appended as pairs they are
  // not, which counts at 100 000 tokens.
  Ordered::object_t vocabulary;
  for (size_t id = 0; id < parts.vocabulary.size(); ++id) {
    static_cast<std::vector<std::pair<const std::string, Ordered>>&>(vocabulary)
        .emplace_back(parts.vocabulary[id], id);
  }
  Ordered merges = Ordered::array();
  for (const Bpe::Merge& merge : parts.merges) {
    merges.push_back(parts.vocabulary[merge.pair.left] + " " + parts.vocabulary[merge.pair.right]);
  }
  const Ordered root = {{"version", "1.0"},
                        {"truncation", nullptr},
                        {"padding", nullptr},
                        {"added_tokens", std::move(added)},
                        {"normalizer", nullptr},
                        {"pre_tokenizer", byte_level},
                        {"post_processor", nullptr},
                        {"decoder", byte_level},
                        {"model", Ordered{{"type", "BPE"},
                                          {"dropout", nullptr},
                                          {"unk_token", nullptr},
                                          {"continuing_subword_prefix", nullptr},
                                          {"end_of_word_suffix", nullptr},
                                          {"fuse_unk", false},
                                          {"byte_fallback", false},
                                          {"ignore_merges", parts.ignore_merges},
                                          {"vocab", Ordered(std::move(vocabulary))},
                                          {"merges", std::move(merges)}}}};
  return root.dump(1) + "\n";
}

}  // namespace mezzo::data
