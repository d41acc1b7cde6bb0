#include "mezzo/data/regex_dialect.h"

#include <array>
#include <cctype>

#include "mezzo/base/check.h"

namespace mezzo::data {
namespace {

// Note [Where PCRE2 and Oniguruma differ]
// Compared over all code points, against tokenizers 0.23.3:
//  - \s of PCRE2 holds U+180E, which is no white space since Unicode 6.3; so \s is spelled out.
//  - Debian's PCRE2 10.42 knows Unicode 14. The letters and numbers that came with 15, 15.1 and 16
//    are listed here, so that \p{L} and \p{N}, which every known pattern is built from, agree on
//    every code point. Other properties are PCRE2's own.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kLaterLetters =
    R"(\x{1c89}\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}\x{11240}\x{11380}-\x{11389}\x{1138b})"
    R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02})"
    R"(\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})"
    R"(\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})"
    R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739})"
    R"(\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kLaterNumbers =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

constexpr std::array<std::string_view, 7> kGroups = {"(?i:", "(?:",  "(?=", "(?!",
                                                     "(?<=", "(?<!", "(?>"};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string translate() {
    while (!is_at_end()) translate_one();
    return std::move(out_);
  }

 private:
  void translate_one() {
    const char c = peek();
    if (c == '\\') return translate_escape(/*is_in_class=*/false);
    if (c == '[') return translate_class();
    if (c == '(') return translate_group();
    if (c == '{') return translate_count();
    if (c == '^' || c == '$' || c == '.') refuse("an anchor or a dot");
    out_ += take();
  }

  void translate_group() {
    for (const std::string_view group : kGroups) {
      if (rest().starts_with(group)) return copy(group.size());
    }
    if (rest().starts_with("(?")) refuse("this kind of group");
    copy(1);
  }

  void translate_count() {
    size_t size = 1;
    while (size < rest().size() && (std::isdigit(byte(size)) || rest()[size] == ',')) ++size;
    const bool is_count =
        size > 1 && std::isdigit(byte(1)) && size < rest().size() && rest()[size] == '}';
    if (!is_count) refuse("a brace that is no {n}, {n,} or {n,m}");
    copy(size + 1);
    // Oniguruma's Ruby syntax reads {n,m}+ as "one or more of {n,m}", PCRE2 as possessive.
    if (rest().starts_with("+")) refuse("'+' after a counted repeat");
  }

  void translate_class() {
    copy(1);
    if (rest().starts_with("^")) copy(1);
    if (rest().starts_with("]")) refuse("']' first in a class");
    while (!is_at_end() && peek() != ']') {
      if (peek() == '\\') {
        translate_escape(/*is_in_class=*/true);
      } else {
        if (peek() == '[' || rest().starts_with("&&")) refuse("a class within a class");
        out_ += take();
      }
    }
    if (is_at_end()) refuse("a class without an end");
    copy(1);
  }

  void translate_escape(bool is_in_class) {
    if (rest().size() < 2) refuse("a backslash at the end");
    const char c = rest()[1];
    if (c == 's' || c == 'S') {
      write_set(kSpace, c == 'S', is_in_class);
      position_ += 2;
    } else if (c == 'd' || c == 'D') {
      write_set(R"(\p{Nd})", c == 'D', is_in_class);
      position_ += 2;
    } else if (c == 'p' || c == 'P') {
      translate_property(c == 'P', is_in_class);
    } else if (c == 'r' || c == 'n' || c == 't' || std::ispunct(byte(1))) {
      copy(2);
    } else {
      refuse("this escape");
    }
  }

  void translate_property(bool is_negated, bool is_in_class) {
    size_t end = 3;
    while (end < rest().size() && std::isalpha(byte(end))) ++end;
    const bool is_named = rest().size() > end && rest()[2] == '{' && rest()[end] == '}' && end > 3;
    if (!is_named) refuse("a property that is not spelled \\p{Name}");
    const std::string_view name = rest().substr(3, end - 3);
    std::string set = fmt::format(R"(\p{{{}}})", name);
    if (name == "L") set += kLaterLetters;
    if (name == "N") set += kLaterNumbers;
    write_set(set, is_negated, is_in_class);
    position_ += end + 1;
  }

  void write_set(std::string_view set, bool is_negated, bool is_in_class) {
    if (!is_in_class) {
      out_ += fmt::format("[{}{}]", is_negated ? "^" : "", set);
    } else {
      if (is_negated) refuse("a negated set within a class");
      out_ += set;
    }
  }

  [[noreturn]] void refuse(std::string_view what) const {
    detail::fail<Error>("tokenizer",
                        "the splitting pattern uses {} at character {} ('{}'), which Mezzo cannot "
                        "read as the tokenizers package does; the pattern is {}",
                        what, position_, rest().substr(0, 8), pattern_);
  }

  bool is_at_end() const { return position_ >= pattern_.size(); }
  std::string_view rest() const { return pattern_.substr(position_); }
  char peek() const { return pattern_[position_]; }
  unsigned char byte(size_t i) const { return static_cast<unsigned char>(rest()[i]); }
  char take() { return pattern_[position_++]; }
  void copy(size_t size) {
    out_ += rest().substr(0, size);
    position_ += size;
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
};

}  // namespace

std::string to_pcre2(std::string_view pattern) { return Translator(pattern).translate(); }

}  // namespace mezzo::data
