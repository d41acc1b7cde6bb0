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
  double largest = 0.0;               ///< |x| of the finite ones
  double sum_squares = 0.0;           ///< of the finite ones

  /// How many would be zero if they were multiplied by `scale` and rounded to the format: zeros,
  /// and what is below half its smallest number. scale: a power of two. Formats down to fp16's
  /// range are exact; where half the smallest number is below 2^-126 (bf16, fp32) only zeros count.
  int64_t zeros_in(const FloatFormat& format, double scale) const;

  /// How many are below `limit`, a power of two of at least 2^-126, zeros among them.
  int64_t below(double limit) const;
  /// Root of the mean square of the finite ones; 0 if there are none.
  double rms() const;

  Magnitudes& operator+=(const Magnitudes& other);
};

/// Of all elements, as fp32 has them; nothing of an undefined tensor.
Magnitudes magnitudes_of(const at::Tensor& tensor);
/// Of all tensors together.
Magnitudes magnitudes_of(const std::vector<at::Tensor>& tensors);

}  // namespace mezzo::numerics
