#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {

// What a number is, read off its bits: without the sign they are ordered as magnitudes are, with
// Inf above all numbers and NaN above Inf. T: c10::Half, c10::BFloat16, float or double.

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 2, uint16_t,
                                  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

template <class T>
inline constexpr BitsOf<T> kInf = 0;
template <>
inline constexpr uint16_t kInf<c10::Half> = 0x7c00u;
template <>
inline constexpr uint16_t kInf<c10::BFloat16> = 0x7f80u;
template <>
inline constexpr uint32_t kInf<float> = 0x7f800000u;
template <>
inline constexpr uint64_t kInf<double> = 0x7ff0000000000000u;

template <class T>
inline constexpr BitsOf<T> kSign = static_cast<BitsOf<T>>(BitsOf<T>{1} << (8 * sizeof(T) - 1));

/// The smallest number that is not subnormal: an exponent of 1.
template <class T>
inline constexpr BitsOf<T> kSmallestNormal = static_cast<BitsOf<T>>((~kInf<T> + 1) & kInf<T>);

template <class T>
MEZZO_INLINE BitsOf<T> bits_of(const T& x) {
  if constexpr (sizeof(T) == 2) {
    return x.x;
  } else {
    return std::bit_cast<BitsOf<T>>(x);
  }
}

template <class T>
MEZZO_INLINE T number_of(BitsOf<T> bits) {
  if constexpr (sizeof(T) == 2) {
    return T(bits, T::from_bits());
  } else {
    return std::bit_cast<T>(bits);
  }
}

template <class T>
double value_of(BitsOf<T> bits) {
  if constexpr (std::is_same_v<T, double>) {
    return number_of<T>(bits);
  } else {
    return wide(number_of<T>(bits));
  }
}

}  // namespace mezzo::kernels
