#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/exponent_counts/cuda.h"

// A block counts a tile in a table of its own. Whole numbers are the same in whatever order they
// are added up; the sum of squares, in fp64, is not bit for bit.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;  // one for each exponent
constexpr int64_t kTile = 1 << 16;
constexpr unsigned kInfinity = 0x7f800000u;

/// Of a thread's numbers, but for their exponents.
struct Sums {
  unsigned zeros = 0, largest_bits = 0;
  double squares = 0.0;

  __device__ void add(float x, unsigned magnitude) {
    zeros += magnitude == 0;
    if (magnitude >= kInfinity) return;
    largest_bits = max(largest_bits, magnitude);
    squares += static_cast<double>(x) * static_cast<double>(x);
  }
};

__device__ void add_to(DeviceExponentCounts& all, const Sums& own) {
  const unsigned zeros = warp_sum(own.zeros), largest_bits = warp_max(own.largest_bits);
  const double squares = warp_sum(own.squares);
  if (threadIdx.x % kWarp != 0) return;
  if (zeros > 0) atomicAdd(&all.zeros, zeros);
  atomicMax(&all.largest_bits, static_cast<unsigned long long>(largest_bits));
  atomicAdd(&all.sum_squares, squares);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count(const T* x, int64_t N, DeviceExponentCounts* counts) {
  constexpr int kWidth = 16 / sizeof(T);
  __shared__ unsigned by_exponent[kThreads];
  by_exponent[threadIdx.x] = 0;
  __syncthreads();
  Sums sums;
  const auto add = [&](float number) {
    const unsigned magnitude = __float_as_uint(number) & 0x7fffffffu;
    atomicAdd(&by_exponent[magnitude >> 23], 1u);
    sums.add(number, magnitude);
  };
  const int64_t begin = blockIdx.x * kTile, end = min(begin + kTile, N);
  for (int64_t at = begin + kWidth * int64_t{threadIdx.x}; at < end; at += kWidth * kThreads) {
    if (at + kWidth <= end) {
      const auto pack = load<kWidth>(x + at);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) add(wide(pack.at[k]));
    } else {
      for (int64_t i = at; i < end; ++i) add(wide(x[i]));
    }
  }
  add_to(*counts, sums);
  __syncthreads();
  const unsigned here = by_exponent[threadIdx.x];
  if (here > 0) atomicAdd(&counts->by_exponent[threadIdx.x], here);
}

}  // namespace

void launch_exponent_counts(const void* x, int64_t N, DType dtype, DeviceExponentCounts* counts,
                            void* stream) {
  with_dtype(dtype, [&]<class T>(T) {
    launch(count<T>, ceil_div(N, kTile), kThreads, stream, static_cast<const T*>(x), N, counts);
  });
}

}  // namespace mezzo::kernels::cuda
