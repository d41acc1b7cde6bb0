#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

// Conversions and functions of one number that the compiler can turn into vector code: no table, no
// call, no branch that matters.

MEZZO_INLINE float wide(float x) { return x; }

MEZZO_INLINE float wide(const c10::BFloat16& x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.x) << 16);
}

MEZZO_INLINE float wide(const c10::Half& x) {
  // The bits, moved, with the exponent put right: without arithmetic on fp32 subnormals, which are
  // 0 to a process that flushes them (setFlushDenormal). Those of fp16 are normal in fp32.
  const uint32_t bits = x.x, sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  const bool is_subnormal = rest < 0x00800000u;
  const float finite = std::bit_cast<float>(rest + (is_subnormal ? 0x38800000u : 0x38000000u)) -
                       (is_subnormal ? 0x1p-14f : 0.0f);
  const uint32_t magnitude =
      rest >= 0x0f800000u ? rest | 0x70000000u : std::bit_cast<uint32_t>(finite);
  return std::bit_cast<float>(sign | magnitude);
}

/// Rounded to nearest, ties to even; a NaN stays one.
template <class T>
MEZZO_INLINE T narrow(float x);

template <>
MEZZO_INLINE float narrow<float>(float x) {
  return x;
}

/// The bits of narrow<BFloat16>(x), in the lower half.
MEZZO_INLINE uint32_t bits_of_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return is_nan ? 0x7fc0u | (bits >> 16) : rounded;
}

template <>
MEZZO_INLINE c10::BFloat16 narrow<c10::BFloat16>(float x) {
  return c10::BFloat16(static_cast<uint16_t>(bits_of_bf16(x)), c10::BFloat16::from_bits());
}

template <>
MEZZO_INLINE c10::Half narrow<c10::Half>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // From 2^-14 on: round the 13 bits off; a carry into the exponent is right, up to Inf.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below: adding 0.5 lets the unit round to the spacing of subnormals, 2^-24.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude >= 0x38800000u ? normal : subnormal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return c10::Half(static_cast<uint16_t>(sign | half), c10::Half::from_bits());
}

/// e^r for |r| <= ln 2 / 2: Cephes' polynomial of expf.
MEZZO_INLINE float exp_polynomial(float r) {
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}

/// e^x within 2 ULP for x in [-87, 88]; 0 below, where it is less than 2^-125; not for greater x;
/// NaN for NaN. Cephes' expf: x = n ln 2 + r, a polynomial for e^r, and the exponent moved by n.
MEZZO_INLINE float exp_of(float x) {
  // Added, 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
  const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  const float p = exp_polynomial(r);
  const float power =
      std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + (uint32_t{127} << 23));
  return x < -87.0f ? 0.0f : p * power;
}

struct Sigmoid {
  float value;  // 1 / (1 + e^-z)
  float slope;  // value (1 - value)
};

/// Both within 6 ULP, but that 0 stands for what is below e^-87; no Inf and no cancellation on the
/// way, as the exponent is never above 0. NaN for NaN.
MEZZO_INLINE Sigmoid sigmoid_of(float z) {
  const float e = exp_of(-std::fabs(z)), larger = 1.0f / (1.0f + e), smaller = e * larger;
  return {z >= 0.0f ? larger : smaller, smaller * larger};
}

}  // namespace mezzo::kernels
