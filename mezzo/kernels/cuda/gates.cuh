#pragma once

#include "mezzo/kernels/cuda/numbers.cuh"

namespace mezzo::kernels::cuda {

struct Sigmoid {
  float value;  // 1 / (1 + e^-z)
  float slope;  // value (1 - value)
};

/// sigmoid_of() of mezzo/kernels/simd/numbers.h. For results of 16 bits, T, by the GPU's short
/// exponential and division: their errors, up to 2^-16 where it matters, vanish in the rounding.
template <class T>
__device__ __forceinline__ Sigmoid sigmoid_of(float z) {
  constexpr bool kIsWide = sizeof(T) == 4;
  const float e = kIsWide ? expf(-fabsf(z)) : __expf(-fabsf(z));
  const float larger = kIsWide ? 1.0f / (1.0f + e) : __fdividef(1.0f, 1.0f + e);
  const float smaller = e * larger;
  return {z >= 0.0f ? larger : smaller, smaller * larger};
}

}  // namespace mezzo::kernels::cuda
