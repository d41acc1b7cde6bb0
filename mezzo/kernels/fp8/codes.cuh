#pragma once

#include <cmath>
#include <type_traits>

#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>

#include "mezzo/kernels/cuda/numbers.cuh"

#ifdef MEZZO_EMULATED_GPU
#include <algorithm>
#include <limits>
#else
#include <cuda_fp8.h>
#endif

namespace mezzo::kernels::cuda {

using c10::Float8_e4m3fn;
using c10::Float8_e5m2;

/// x in F, an FP8 type, to nearest. All that is too large becomes the largest number, Inf as well.
template <class F>
__device__ __forceinline__ unsigned char saturated(float x) {
#ifdef MEZZO_EMULATED_GPU
  const float max = std::numeric_limits<F>::max();
  return F(std::clamp(x, -max, max)).x;
#else
  constexpr bool kIsE4M3 = std::is_same_v<F, Float8_e4m3fn>;
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, kIsE4M3 ? __NV_E4M3 : __NV_E5M2);
#endif
}

/// x * inverse as cast.h says. The code after the largest number's is Inf in e5m2, and NaN in e4m3.
template <class F>
__device__ __forceinline__ unsigned char code_of(float x, float inverse) {
  const int is_inf = fabsf(x) == INFINITY ? 1 : 0;
  return static_cast<unsigned char>(saturated<F>(x * inverse) + is_inf);
}

}  // namespace mezzo::kernels::cuda
