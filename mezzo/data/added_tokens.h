#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::data {

/// A token that is found in the text as it is spelled, before any splitting.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool is_special = false;
  bool is_normalized = false;  // looked for after all that are not
};

/// Finds added tokens: the leftmost first, of those that begin at one place the longest.
class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  const std::vector<AddedToken>& tokens() const { return tokens_; }

  struct Segment {
    std::string_view text;
    int32_t id;  // kOrdinary: text to be split and merged
  };
  static constexpr int32_t kOrdinary = -1;

  /// Sets `segments` to the parts of `text`, in order; no ordinary part is empty.
  void split(std::string_view text, std::vector<Segment>& segments) const;

 private:
  // One pass over the text: tokens by their first byte, the longest first.
  struct Pass {
    std::array<std::vector<int32_t>, 256> starting_with;
    std::string first_bytes;
  };
  void find(const Pass& pass, std::string_view text, std::vector<Segment>& segments) const;
  const AddedToken* match(const Pass& pass, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::array<Pass, 2> passes_;
};

}  // namespace mezzo::data
