#pragma once

#include <bit>
#include <cstdint>

#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

constexpr float kLog2OfE = 1.44269504f;
constexpr float kLnOf2 = 0.693147181f;

/// 2^x within 2 ULP for x in [-126, 127]; 0 below; not for greater x; NaN for NaN. Less work than
/// exp_of, for loops that have log2 e multiplied into their factors. The polynomial is that of the
/// least relative error for |r| <= 1/2, 2^-29.
MEZZO_INLINE float exp2_of(float x) {
  // Added, 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits: with the bias of
  // an exponent.
  const float shifted = x + 12583039.0f, r = x - (shifted - 12583039.0f);
  float p = 1.53458120e-4f;
  p = p * r + 1.33999312e-3f;
  p = p * r + 9.61848896e-3f;
  p = p * r + 5.55032878e-2f;
  p = p * r + 2.40226469e-1f;
  p = p * r + 6.93147206e-1f;
  p = p * r + 1.0f;
  const float power = std::bit_cast<float>(std::bit_cast<uint32_t>(shifted) << 23);
  return x < -126.0f ? 0.0f : p * power;
}

}  // namespace mezzo::kernels
