#pragma once

#include <cmath>
#include <cstdint>

#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

// Note [8-bit moments]
// AdamW's moments in 8 bits each, by blocks of 128 numbers that lie side by side in memory, each
// with one fp32 scale: its largest |number| (block-wise quantisation: Dettmers et al., "8-bit
// Optimizers via Block-wise Quantization", ICLR 2022, arXiv 2110.02861). The codes stand for the
// squares of whole numbers, which are dense near zero (companding, as FlashOptim's, arXiv
// 2602.23349, by a map that needs neither a table nor a division to decode):
//
//   first moment   m   code n in [-127, 127], int8:  m       = scale * n |n| / 127^2
//   second moment  v   code n in [0, 255], uint8:    sqrt(v) = scale * n^2   / 255^2
//
// Rounding is to one of the two neighbours, the nearer being the more likely, so that the expected
// value is the number (of sqrt(v) for v). To the nearest would not do: v changes by 0.1 % in a
// step and the gap between codes is 1 % and more, so that v would never come down again, and a
// small m would stay where it is while its v shrinks. The random bits are a hash of the step count
// and the number's position: the same run gives the same bits, on any number of threads.
//
// Error: |x' - x| <= scale * (2 n + 1) / top^2, where n = floor(top * sqrt(x / scale)) is the code
// below and top is 127 or 255; for x near the scale that is 1.6 % and 0.8 % of it.
//
// The update is m / sqrt(v): a v that is rounded to zero where m is not would blow it up. So the
// code of a v > 0 is never 0, which keeps sqrt(v') >= sqrt(v) / 4 always (the worst: just below
// n = 2, down to 1).
//
// A NaN or Inf makes its block's scale NaN or Inf, and the whole block not finite. A block whose
// largest m is below 2^-100 is stored as zeros.

constexpr int64_t kMomentBlock = 128;
constexpr int32_t kTopOfFirst = 127;
constexpr int32_t kTopOfSecond = 255;
constexpr float kLeastScale = 0x1p-100f;

/// 32 well-mixed bits (lowbias32 of Wellons' hash prospector), another pattern each step.
MEZZO_INLINE uint32_t random_bits(uint32_t step, uint32_t position) {
  uint32_t x = position ^ (step * 0x9e3779b9u);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

/// The middle of one of 2^16 steps of (0, 1).
MEZZO_INLINE float unit_interval(uint32_t bits16) {
  return (static_cast<float>(static_cast<int32_t>(bits16)) + 0.5f) * 0x1p-16f;
}

/// n in [0, top], one of the two whole numbers around sqrt(y), for y in [0, top^2], at random with
/// E[n^2] = y: the upper where u, uniform in (0, 1), falls below the part of the way. More than
/// top^2, and NaN, is top.
MEZZO_INLINE int32_t rounded_root(float y, int32_t top, float u) {
  const float most = static_cast<float>(top * top);
  const float bounded = y < most ? y : most;
  const int32_t low = static_cast<int32_t>(std::sqrt(bounded));
  const float way = bounded - static_cast<float>(low * low);
  return low + (way > u * static_cast<float>(2 * low + 1) ? 1 : 0);
}

/// top^2 / scale, to multiply a number with before rounded_root().
MEZZO_INLINE float encoding_factor(float scale, int32_t top) {
  return scale < kLeastScale ? 0.0f : static_cast<float>(top * top) / scale;
}

/// scale / top^2, to multiply the square of a code with.
MEZZO_INLINE float decoding_factor(float scale, int32_t top) {
  return scale / static_cast<float>(top * top);
}

MEZZO_INLINE int8_t encode_first(float m, float factor, float u) {
  const int32_t n = rounded_root(std::fabs(m) * factor, kTopOfFirst, u);
  return static_cast<int8_t>(m < 0.0f ? -n : n);
}

MEZZO_INLINE float decode_first(int8_t code, float factor) {
  const int32_t n = code;
  return static_cast<float>(n < 0 ? -n * n : n * n) * factor;
}

/// sqrt_v: the root of the second moment.
MEZZO_INLINE uint8_t encode_second(float sqrt_v, float factor, float u) {
  const int32_t n = rounded_root(sqrt_v * factor, kTopOfSecond, u);
  return static_cast<uint8_t>(sqrt_v > 0.0f && n < 1 ? 1 : n);
}

/// sqrt(v).
MEZZO_INLINE float decode_second(uint8_t code, float factor) {
  const int32_t n = code;
  return static_cast<float>(n * n) * factor;
}

}  // namespace mezzo::kernels
