#include "tests/data/golden_text.h"

#include <nlohmann/json.hpp>

#include "mezzo/data/random.h"
#include "mezzo/data/utf8.h"
#include "tests/testing.h"

namespace mezzo::data::testing {
namespace {

bool is_surrogate(char32_t code) { return code >= 0xD800 && code < 0xE000; }

}  // namespace

std::string golden_path(const std::string& name) { return MEZZO_TEST_DATA "/" + name; }

const std::vector<std::string>& golden_fragments() {
  static const auto fragments =
      nlohmann::json::parse(mezzo::testing::read_file(golden_path("fragments.json")))
          .get<std::vector<std::string>>();
  return fragments;
}

// Step for step what chunk() in the script does.
std::string golden_chunk(int index) {
  const auto& fragments = golden_fragments();
  Random random(static_cast<uint64_t>(index));
  std::string text;
  while (text.size() < 16384) {
    const uint64_t kind = random.below(8);
    if (kind == 0) {
      const auto code = static_cast<char32_t>(random.below(0x110000));
      append_utf8(is_surrogate(code) ? 0xFFFD : code, text);
    } else if (kind <= 2) {
      for (uint64_t left = 1 + random.below(9); left > 0; --left) {
        text += static_cast<char>('a' + random.below(26));
      }
      text += ' ';
    } else {
      text += fragments[random.below(fragments.size())];
    }
  }
  return text;
}

std::vector<std::string> golden_chunks() {
  std::vector<std::string> chunks;
  for (int i = 0; i < kChunks; ++i) chunks.push_back(golden_chunk(i));
  return chunks;
}

std::string random_text(uint64_t seed, int count) {
  constexpr uint64_t kBounds[] = {0x80, 0x800, 0x3100, 0x10000, 0x110000};
  Random random(seed);
  std::string text;
  while (count-- > 0) {
    const auto code = static_cast<char32_t>(random.below(kBounds[random.below(5)]));
    append_utf8(is_surrogate(code) ? ' ' : code, text);
  }
  return text;
}

}  // namespace mezzo::data::testing
