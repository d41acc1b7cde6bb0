#pragma once

#include "mezzo/kernels/cuda/numbers.cuh"

namespace mezzo::kernels::cuda {

/// to[i] = f(from[i]...), in fp32 and rounded once. A thread takes 16 bytes of each at a time, and
/// the last of them what is left.
template <class F, class T, class... From>
__global__ void elementwise_loop(F f, T* to, int64_t N, const From*... from) {
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t at = kWidth * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at >= N) return;
  if (at + kWidth > N) {
    for (int64_t i = at; i < N; ++i) to[i] = narrow<T>(f(wide(from[i])...));
    return;
  }
  const auto compute = [&](const auto&... packs) {
    Pack<T, kWidth> result;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) result.at[k] = narrow<T>(f(wide(packs.at[k])...));
    store(to + at, result);
  };
  compute(load<kWidth>(from + at)...);
}

/// All at multiples of 16 bytes.
template <class F, class T, class... From>
void elementwise(F f, T* to, int64_t N, void* stream, const From*... from) {
  constexpr int kThreads = 256;
  constexpr int64_t kPerBlock = kThreads * (16 / sizeof(T));
  if (N == 0) return;
  launch(elementwise_loop<F, T, From...>, ceil_div(N, kPerBlock), kThreads, stream, f, to, N,
         from...);
}

}  // namespace mezzo::kernels::cuda
