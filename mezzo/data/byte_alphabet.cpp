#include "mezzo/data/byte_alphabet.h"

#include <cstdint>

#include "mezzo/data/utf8.h"

namespace mezzo::data {
namespace {

constexpr int kOthers = 68;  // bytes that are not printable, spelled U+0100 to U+0143

struct Alphabet {
  std::array<char32_t, 256> character_of{};
  std::array<int16_t, 256 + kOthers> byte_of{};  // -1: no byte

  Alphabet() {
    byte_of.fill(-1);
    char32_t other = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t character = is_printable ? static_cast<char32_t>(byte) : other++;
      character_of[byte] = character;
      byte_of[character] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string spelled;
  for (const char byte : bytes) {
    append_utf8(alphabet().character_of[static_cast<uint8_t>(byte)], spelled);
  }
  return spelled;
}

std::optional<std::string> from_byte_alphabet(std::string_view spelled) {
  std::string bytes;
  while (!spelled.empty()) {
    const char32_t character = take_code_point(spelled);
    if (character >= alphabet().byte_of.size() || alphabet().byte_of[character] < 0) return {};
    bytes += static_cast<char>(alphabet().byte_of[character]);
  }
  return bytes;
}

const std::array<char, 256>& bytes_in_alphabet_order() {
  static const std::array<char, 256> ordered = [] {
    std::array<char, 256> bytes{};
    size_t filled = 0;
    for (const int16_t byte : alphabet().byte_of) {
      if (byte >= 0) bytes[filled++] = static_cast<char>(byte);
    }
    return bytes;
  }();
  return ordered;
}

}  // namespace mezzo::data
