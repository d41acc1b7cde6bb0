#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo {
struct FloatFormat;
}

namespace mezzo::numerics {

/// How many numbers there are of each size, by power of two.
struct Magnitudes {
  static constexpr int kFirstExponent = -127;  ///< of counts[0]; that one holds all below 2^-126

  int64_t values = 0;                 ///< all of them
  int64_t zeros = 0;                  ///< exactly 0
  int64_t nonfinite = 0;              ///< NaN and Inf
  std::array<int64_t, 255> counts{};  ///< [i]: 2^(i - 127) <= |x| < 2^(i - 126), of the others

  /// How many would be zero if they were multiplied by `scale` and rounded to the format: zeros,
  /// and what is below half its smallest number. scale: a power of two. Formats down to fp16's
  /// range are exact; where half the smallest number is below 2^-126 (bf16, fp32) only zeros count.
  int64_t zeros_in(const FloatFormat& format, double scale) const;

  Magnitudes& operator+=(const Magnitudes& other);
};

/// Of all elements of all tensors, as fp32 has them. Undefined tensors count for nothing. One read
/// from the device per tensor.
Magnitudes magnitudes_of(const std::vector<at::Tensor>& tensors);

}  // namespace mezzo::numerics
