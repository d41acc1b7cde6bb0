#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>

// A GPU for tests, on the CPU: what the kernels of mezzo/kernels take from nvcc. Blocks run one
// after the other; the threads of a block are fibers that take turns where the real ones wait for
// each other, so that indices, tails, reductions and what is shared are those of a GPU. How fast,
// or how far apart in time, is not.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // blocks do not overlap
#define __grid_constant__
#define __launch_bounds__(threads)

namespace mezzo::emulated_gpu {

struct Index {
  unsigned x = 0;
};

/// Of the thread that runs.
extern Index thread_index, block_index, block_size, grid_size;

/// Runs `thread` for each thread of each block.
void run_blocks(int64_t blocks, int threads, const std::function<void()>& thread);
/// The others of the block come to the same place.
void sync_block();
/// The value that the lane `lane ^ step` of the warp gives; all 32 take part.
uint32_t exchange(uint32_t value, int step);

}  // namespace mezzo::emulated_gpu

#define threadIdx ::mezzo::emulated_gpu::thread_index
#define blockIdx ::mezzo::emulated_gpu::block_index
#define blockDim ::mezzo::emulated_gpu::block_size
#define gridDim ::mezzo::emulated_gpu::grid_size

namespace mezzo::kernels::cuda {

using std::max;
using std::min;

inline void __syncthreads() { emulated_gpu::sync_block(); }

/// T: of one word or several.
template <class T>
T __shfl_xor_sync(unsigned, T value, int step) {
  auto words = std::bit_cast<std::array<uint32_t, sizeof(T) / sizeof(uint32_t)>>(value);
  for (uint32_t& word : words) word = emulated_gpu::exchange(word, step);
  return std::bit_cast<T>(words);
}

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

inline void atomicAdd(unsigned* to, unsigned value) { *to += value; }
inline void atomicAdd(unsigned long long* to, unsigned long long value) { *to += value; }
inline void atomicAdd(double* to, double value) { *to += value; }
inline void atomicMax(unsigned* to, unsigned value) { *to = max(*to, value); }
inline void atomicMax(unsigned long long* to, unsigned long long value) { *to = max(*to, value); }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void*,
            const Arguments&... arguments) {
  emulated_gpu::run_blocks(blocks, threads, [&] { kernel(arguments...); });
}

template <class... Parameters>
int resident_blocks(void (*)(Parameters...), int) {
  return 4;
}

}  // namespace mezzo::kernels::cuda
