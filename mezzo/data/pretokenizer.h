#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::data {

/// GPT-2's splitting: contractions, letters, numbers, the rest, white space.
extern const std::string_view kGpt2Pattern;

/// Cuts text into the pieces that BPE merges within. Each pattern cuts the pieces of the one before
/// it into its matches and what lies between them. Immutable; any number of threads may share it.
class PreTokenizer {
 public:
  /// Throws Error for a pattern that does not compile, that can match the empty text, or that
  /// to_pcre2 refuses.
  explicit PreTokenizer(const std::vector<std::string>& patterns);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// What one thread needs to match with.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;

   private:
    friend class PreTokenizer;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  /// Sets `pieces` to the pieces of `text`, which must be well-formed UTF-8: none is empty, and
  /// together they are the text. Throws Error if a match needs more memory or steps than allowed.
  void split(std::string_view text, Scratch& scratch, std::vector<std::string_view>& pieces) const;

 private:
  struct Regex;
  std::vector<Regex> regexes_;
};

}  // namespace mezzo::data
