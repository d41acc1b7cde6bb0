#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace mezzo::data {

/// SplitMix64's output function: a fixed bijection of 64 bits that looks random.
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// SplitMix64: the same numbers on every platform and with every standard library.
class Random {
 public:
  explicit constexpr Random(uint64_t seed) : state_(seed) {}
  constexpr uint64_t next() { return mix64(state_ += 0x9E3779B97F4A7C15u); }

  /// Uniform in [0, bound), bound > 0. Without bias: numbers of the incomplete last round of
  /// `bound` are drawn again.
  constexpr uint64_t below(uint64_t bound) {
    const uint64_t incomplete = (0 - bound) % bound;
    uint64_t value = next();
    while (value < incomplete) value = next();
    return value % bound;
  }

 private:
  uint64_t state_;
};

/// Fisher-Yates. std::shuffle's result differs from one standard library to the next.
template <class T>
void shuffle(std::vector<T>& values, Random random) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

}  // namespace mezzo::data
