// Broken files give an Error or a valid result, never a crash, an abort or another exception.
#include <random>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/safetensors.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr unsigned kSeed = 20240611;

std::string small_file(const testing::TempDir& dir) {
  save_safetensors(dir / "whole", {{{"a.weight", at::arange(6, at::kFloat).reshape({2, 3})},
                                    {"b", at::ones({3}, at::kBool)},
                                    {"c", at::zeros({0, 2}, at::kHalf)}},
                                   {{"format", "pt"}}});
  return testing::read_file(dir / "whole");
}

/// True if the bytes are refused with an Error. If they are read, all of the result is touched.
bool is_refused(const testing::TempDir& dir, const std::string& bytes) {
  testing::write_file(dir / "fuzz", bytes);
  try {
    for (const auto& [name, tensor] : load_safetensors(dir / "fuzz").tensors) {
      static_cast<void>(tensor.to(at::kDouble).sum().item<double>());
    }
    return false;
  } catch (const Error&) {
    return true;
  }
}

TEST(SafeTensorsFuzz, EveryTruncationIsRefused) {
  testing::TempDir dir;
  const std::string whole = small_file(dir);
  ASSERT_FALSE(is_refused(dir, whole));
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_TRUE(is_refused(dir, whole.substr(0, length))) << "the first " << length << " bytes";
  }
}

TEST(SafeTensorsFuzz, EveryFlippedBitOfTheHeaderGivesAnErrorOrAValidFile) {
  testing::TempDir dir;
  const std::string whole = small_file(dir);
  const size_t header_end = whole.find("}}") + 2;
  size_t refused = 0;
  for (size_t bit = 0; bit < header_end * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    refused += is_refused(dir, flipped) ? 1 : 0;
  }
  // What survives is a renamed tensor, note or digit that still adds up.
  EXPECT_GT(refused, header_end * 8 / 2);
}

TEST(SafeTensorsFuzz, RandomBytesAreRefused) {
  testing::TempDir dir;
  std::mt19937 random(kSeed);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 200, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_TRUE(is_refused(dir, bytes)) << "seed " << kSeed << ", round " << round;
  }
}

TEST(SafeTensorsFuzz, RandomEditsNeverCrash) {
  testing::TempDir dir;
  const std::string whole = small_file(dir);
  const std::string alphabet = "{}[]\",:0123456789-.eE\\u \xff";
  std::mt19937 random(kSeed);
  for (int round = 0; round < 2000; ++round) {
    std::string edited = whole;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = 8 + random() % (edited.size() - 8);
      const char with = alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0:
          edited[at] = with;
          break;
        case 1:
          edited.insert(at, 1, with);
          break;
        default:
          edited.erase(at, 1);
      }
    }
    EXPECT_NO_THROW(is_refused(dir, edited)) << "seed " << kSeed << ", round " << round;
  }
}

}  // namespace
}  // namespace mezzo
