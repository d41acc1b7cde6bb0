#include "mezzo/data/pretokenizer.h"

#include <array>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "mezzo/base/check.h"
#include "mezzo/data/regex_dialect.h"

namespace mezzo::data {
namespace {

template <auto free>
struct Deleter {
  template <class T>
  void operator()(T* pointer) const {
    free(pointer);
  }
};
using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

PCRE2_SPTR as_pcre2(const char* text) { return reinterpret_cast<PCRE2_SPTR>(text); }

std::string message_of(int error) {
  std::array<char, 256> text{};
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  return text.data();
}

Code compile(const std::string& pattern) {
  const std::string translated = to_pcre2(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(as_pcre2(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP,
                          &error, &offset, nullptr));
  MEZZO_CHECK(code, "tokenizer", "the splitting pattern {} must be a regular expression, but: {}",
              pattern, message_of(error));
  uint32_t can_be_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &can_be_empty);
  MEZZO_CHECK(can_be_empty == 0, "tokenizer",
              "the splitting pattern {} must not match the empty text, but it can", pattern);
  // Where the system forbids making code at run time this fails, and matching is slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct PreTokenizer::Regex {
  Code code;
};

struct PreTokenizer::Scratch::Impl {
  MatchData match{pcre2_match_data_create(1, nullptr)};
  MatchContext context{pcre2_match_context_create(nullptr)};
  // The largest size is address space until a match needs it.
  JitStack stack{pcre2_jit_stack_create(32 << 10, 64 << 20, nullptr)};
  std::vector<std::string_view> coarse;  // pieces of the pattern before

  Impl() {
    MEZZO_CHECK(match && context && stack, "tokenizer", "no memory to match the pattern with");
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }

  // Appends the matches of `code` in `text`, and what lies between them, to `pieces`.
  void isolate(const pcre2_code* code, std::string_view text,
               std::vector<std::string_view>& pieces) {
    size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(code, as_pcre2(text.data()), text.size(), done,
                                    PCRE2_NO_UTF_CHECK, match.get(), context.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      MEZZO_CHECK(found >= 0, "tokenizer", "cannot split a text of {} bytes at byte {}: {}",
                  text.size(), done, message_of(found));
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
      MEZZO_INTERNAL_CHECK(range[0] >= done && range[1] > range[0]);
      if (range[0] > done) pieces.push_back(text.substr(done, range[0] - done));
      pieces.push_back(text.substr(range[0], range[1] - range[0]));
      done = range[1];
    }
    if (done < text.size()) pieces.push_back(text.substr(done));
  }
};

PreTokenizer::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {}
PreTokenizer::Scratch::~Scratch() = default;
PreTokenizer::Scratch::Scratch(Scratch&&) noexcept = default;

PreTokenizer::PreTokenizer(const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) regexes_.push_back({compile(pattern)});
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

void PreTokenizer::split(std::string_view text, Scratch& scratch,
                         std::vector<std::string_view>& pieces) const {
  pieces.clear();
  if (!text.empty()) pieces.push_back(text);
  std::vector<std::string_view>& coarse = scratch.impl_->coarse;
  for (const Regex& regex : regexes_) {
    coarse.swap(pieces);
    pieces.clear();
    for (const std::string_view piece : coarse) {
      scratch.impl_->isolate(regex.code.get(), piece, pieces);
    }
  }
}

}  // namespace mezzo::data
