#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <c10/core/ScalarType.h>

#include "mezzo/base/check.h"

namespace mezzo {

/// What a floating-point format can tell apart and hold. Rounding to nearest is off by at most
/// `epsilon / 2` relative, down to `smallest_normal`; below it by `smallest_subnormal / 2`.
struct FloatFormat {
  std::string_view name;
  double epsilon;  // the step from 1 to the next number
  double max;
  double smallest_normal;
  double smallest_subnormal;
};

/// The format of `dtype`: fp64, fp32, fp16 or bf16. Throws Error for any other type.
inline const FloatFormat& float_format(at::ScalarType dtype) {
  static constexpr FloatFormat kFp64{"fp64", 0x1p-52, 0x1.fffffffffffffp+1023, 0x1p-1022,
                                     0x1p-1074};
  static constexpr FloatFormat kFp32{"fp32", 0x1p-23, 0x1.fffffep+127, 0x1p-126, 0x1p-149};
  static constexpr FloatFormat kFp16{"fp16", 0x1p-10, 65504.0, 0x1p-14, 0x1p-24};
  static constexpr FloatFormat kBf16{"bf16", 0x1p-7, 0x1.fep+127, 0x1p-126, 0x1p-133};
  switch (dtype) {
    case at::ScalarType::Double:
      return kFp64;
    case at::ScalarType::Float:
      return kFp32;
    case at::ScalarType::Half:
      return kFp16;
    case at::ScalarType::BFloat16:
      return kBf16;
    default:
      detail::fail<Error>("float_format", "dtype must be fp64, fp32, fp16 or bf16, but is {}",
                          c10::toString(dtype));
  }
}

inline bool has_16_bits(at::ScalarType dtype) {
  return dtype == at::ScalarType::Half || dtype == at::ScalarType::BFloat16;
}

/// FP8 (Micikevicius et al. 2022, arXiv 2209.05433), which no op of a model runs in by itself.
constexpr FloatFormat kFp8E4M3{"fp8_e4m3", 0x1p-3, 448.0, 0x1p-6, 0x1p-9};
constexpr FloatFormat kFp8E5M2{"fp8_e5m2", 0x1p-2, 57344.0, 0x1p-14, 0x1p-16};

/// How far a value may lie from its exact one after a chain of `length` roundings in `dtype` that
/// each act on numbers of at most `magnitude`. A sum or dot product of n terms is a chain of n.
///
/// With u = epsilon / 2 the certain bound is length * u * magnitude. Rounding errors of mixed sign
/// grow with the root of the length (Higham and Mary, 2019): 8 sqrt(length) u is exceeded with a
/// probability below 2 exp(-32), about 3e-14 a value. The smaller of the two is taken.
/// Compare two rounded values with twice this.
inline double tolerance_for(at::ScalarType dtype, int64_t length, double magnitude) {
  MEZZO_CHECK(length > 0, "tolerance_for", "length must be > 0, but is {}", length);
  MEZZO_CHECK(magnitude >= 0 && std::isfinite(magnitude), "tolerance_for",
              "magnitude must be finite and >= 0, but is {}", magnitude);
  const FloatFormat& format = float_format(dtype);
  const auto n = static_cast<double>(length);
  const double roundings = std::min(n, 8.0 * std::sqrt(n));
  return roundings * (format.epsilon / 2 * magnitude + format.smallest_subnormal / 2);
}

}  // namespace mezzo
