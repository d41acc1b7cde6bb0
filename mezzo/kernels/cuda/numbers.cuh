#pragma once

#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "mezzo/kernels/cuda/compiler.cuh"
#include "mezzo/kernels/cuda/dtype.h"
#include "mezzo/kernels/cuda/launch.h"

namespace mezzo::kernels::cuda {

using c10::BFloat16;
using c10::Half;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(BFloat16 x) { return static_cast<float>(x); }
__device__ __forceinline__ float wide(Half x) { return static_cast<float>(x); }

/// Rounded to nearest, ties to even.
template <class T>
__device__ __forceinline__ T narrow(float x) {
  return static_cast<T>(x);
}

/// N numbers that are loaded and stored in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& values) {
  *reinterpret_cast<Pack<T, N>*>(to) = values;
}

/// f(T{}) for the type that `dtype` names.
template <class F>
void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat:
      return f(float{});
    case DType::kBFloat16:
      return f(BFloat16{});
    default:
      return f(Half{});
  }
}

/// The sum over the warp's lanes, on each of them; float, double or unsigned.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/// The largest of the warp's, on each of them. Floats that are not negative go in as their bits,
/// which are in their order, NaN's above all.
__device__ __forceinline__ unsigned warp_max(unsigned x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

/// Each of x becomes its sum over the block's threads, on each of them; a multiple of kWarp of
/// them, all of which call it. `scratch` is free to be used again when all have returned.
template <int N>
__device__ __forceinline__ void block_sums(float (&x)[N], float (&scratch)[N][kWarp]) {
  const int warps = static_cast<int>(blockDim.x) / kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = 0; i < N; ++i) x[i] = warp_sum(x[i]);
  __syncthreads();
  for (int i = 0; i < N; ++i)
    if (lane == 0) scratch[i][warp] = x[i];
  __syncthreads();
  for (int i = 0; i < N; ++i) x[i] = warp_sum(lane < warps ? scratch[i][lane] : 0.0f);
}

__device__ __forceinline__ float block_sum(float x, float (&scratch)[1][kWarp]) {
  float sum[1] = {x};
  block_sums(sum, scratch);
  return sum[0];
}

}  // namespace mezzo::kernels::cuda
