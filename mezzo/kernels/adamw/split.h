#pragma once

#include <bit>
#include <cstdint>

#include <c10/util/BFloat16.h>

#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

/// An fp32 number in two 16-bit halves: the bf16 nearest to it, which products use, and what its
/// rounding took away.
struct SplitFloat {
  c10::BFloat16 high;
  int16_t remainder;
};

/// bits(w) = bits(high) * 2^16 + remainder, in 32-bit arithmetic that wraps around; where rounding
/// went up the remainder is negative. (NVIDIA Apex's and Transformer Engine's
/// store_param_remainders.)
///
/// join(split(w)) is w bit for bit for every w but a NaN. Rounding is to nearest; the middle goes
/// away from zero, since an int16 holds -32768 and not 32768 (ties to even would need both).
/// From 0x1.ffp+127 (3.396e38) on, and for Inf, high is Inf, as it is in a cast; a NaN stays a NaN
/// in high, and comes back quiet and without the lower half of its payload.
MEZZO_INLINE SplitFloat split(float w) {
  const uint32_t bits = std::bit_cast<uint32_t>(w);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t high = is_nan ? (bits >> 16) | 0x40u : (bits + 0x8000u) >> 16;
  return {c10::BFloat16(static_cast<uint16_t>(high), c10::BFloat16::from_bits()),
          static_cast<int16_t>(is_nan ? 0u : bits & 0xffffu)};
}

/// The number of which these are the halves.
MEZZO_INLINE float join(c10::BFloat16 high, int16_t remainder) {
  return std::bit_cast<float>((static_cast<uint32_t>(high.x) << 16) +
                              static_cast<uint32_t>(static_cast<int32_t>(remainder)));
}

}  // namespace mezzo::kernels
