#include "mezzo/data/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace mezzo::data {
namespace {

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

bool is_continuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// The length that a first byte announces; 0 for a byte that cannot be first.
size_t announced_length(uint8_t first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  if (first >= 0xF0 && first <= 0xF4) return 4;
  return 0;
}

// The second byte is where overlong forms, surrogates and values above U+10FFFF show.
bool is_second_byte(uint8_t first, uint8_t second) {
  const uint8_t lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  return second >= lowest && second <= highest;
}

// The length of the well-formed character at `i`; 0 if there is none.
size_t length_at(std::string_view text, size_t i) {
  const uint8_t first = byte_at(text, i);
  const size_t length = announced_length(first);
  if (length <= 1) return length;
  if (i + length > text.size() || !is_second_byte(first, byte_at(text, i + 1))) return 0;
  for (size_t k = 2; k < length; ++k) {
    if (!is_continuation(byte_at(text, i + k))) return 0;
  }
  return length;
}

bool are_eight_ascii(const char* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return (word & 0x8080808080808080u) == 0;
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size() && are_eight_ascii(text.data() + i)) {
      i += 8;
      continue;
    }
    const size_t length = length_at(text, i);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

std::string to_well_formed_utf8(std::string_view text) {
  std::string good;
  while (const std::optional<size_t> bad = find_invalid_utf8(text)) {
    good += text.substr(0, *bad);
    append_utf8(U'\uFFFD', good);
    text.remove_prefix(*bad + 1);
  }
  return good += text;
}

size_t unfinished_utf8_tail(std::string_view text) {
  const size_t longest = std::min<size_t>(3, text.size());
  for (size_t tail = 1; tail <= longest; ++tail) {
    const uint8_t byte = byte_at(text, text.size() - tail);
    if (!is_continuation(byte)) return announced_length(byte) > tail ? tail : 0;
  }
  return 0;
}

char32_t take_code_point(std::string_view& text) {
  const uint8_t first = byte_at(text, 0);
  const size_t length = announced_length(first);
  char32_t code_point = length == 1 ? first : first & (0x7F >> length);
  for (size_t k = 1; k < length; ++k) code_point = code_point << 6 | (byte_at(text, k) & 0x3F);
  text.remove_prefix(length);
  return code_point;
}

void append_utf8(char32_t code_point, std::string& text) {
  const auto append_bits = [&](int shift, uint32_t mark) {
    text += static_cast<char>(mark | ((code_point >> shift) & (mark == 0x80 ? 0x3F : 0x7F)));
  };
  if (code_point < 0x80) {
    append_bits(0, 0);
  } else if (code_point < 0x800) {
    append_bits(6, 0xC0);
    append_bits(0, 0x80);
  } else if (code_point < 0x10000) {
    append_bits(12, 0xE0);
    append_bits(6, 0x80);
    append_bits(0, 0x80);
  } else {
    append_bits(18, 0xF0);
    append_bits(12, 0x80);
    append_bits(6, 0x80);
    append_bits(0, 0x80);
  }
}

}  // namespace mezzo::data
