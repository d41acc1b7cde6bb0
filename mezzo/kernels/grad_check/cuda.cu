#include "mezzo/kernels/cuda/batch.cuh"
#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/grad_check/cuda.h"

// A block takes a tile of a gradient, and a launch the tiles of several, one after the other.
// Counts are whole numbers and maxima: in whatever order blocks add them up, they are the same.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTile = 16384;
using GradientBatch = Batch<Gradient, CheckOptions, 64>;

/// Of a thread's numbers.
struct Facts {
  unsigned nan = 0, positive_inf = 0, negative_inf = 0, zeros = 0, subnormals = 0;
  float largest = 0.0f;

  __device__ void add(float x, float smallest_normal) {
    const float magnitude = fabsf(x);
    nan += x != x;
    positive_inf += x == INFINITY;
    negative_inf += x == -INFINITY;
    zeros += x == 0.0f;
    subnormals += magnitude > 0.0f && magnitude < smallest_normal;
    if (magnitude < INFINITY) largest = fmaxf(largest, magnitude);
  }
  __device__ bool is_bad() const { return nan + positive_inf + negative_inf > 0; }
};

__device__ void add_to(DeviceFacts& all, const Facts& own) {
  const unsigned nan = warp_sum(own.nan), positive_inf = warp_sum(own.positive_inf),
                 negative_inf = warp_sum(own.negative_inf), zeros = warp_sum(own.zeros),
                 subnormals = warp_sum(own.subnormals);
  const unsigned largest = warp_max(__float_as_uint(own.largest));
  if (threadIdx.x % kWarp != 0) return;
  if (nan > 0) atomicAdd(&all.nan, nan);
  if (positive_inf > 0) atomicAdd(&all.positive_inf, positive_inf);
  if (negative_inf > 0) atomicAdd(&all.negative_inf, negative_inf);
  if (zeros > 0) atomicAdd(&all.zeros, zeros);
  if (subnormals > 0) atomicAdd(&all.subnormals, subnormals);
  atomicMax(&all.largest_bits, static_cast<unsigned long long>(largest));
}

template <class T>
__device__ Facts check_tile(const Gradient& gradient, int64_t begin, int64_t end, float factor,
                            float smallest_normal) {
  constexpr int kWidth = 16 / sizeof(T);
  T* values = static_cast<T*>(gradient.values);
  Facts facts;
  const auto visit = [&](T& value) {
    facts.add(wide(value), smallest_normal);
    value = narrow<T>(wide(value) * factor);
  };
  for (int64_t at = begin + kWidth * int64_t{threadIdx.x}; at < end; at += kWidth * kThreads) {
    if (gradient.is_aligned && at + kWidth <= end) {
      auto pack = load<kWidth>(values + at);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) visit(pack.at[k]);
      if (factor != 1.0f) store(values + at, pack);
    } else {
      for (int64_t i = at; i < min(at + kWidth, end); ++i) {
        T value = values[i];
        visit(value);
        if (factor != 1.0f) values[i] = value;
      }
    }
  }
  return facts;
}

__device__ Facts check_tile(const Gradient& gradient, int64_t begin, int64_t end, float factor,
                            float smallest_normal) {
  if (gradient.dtype == DType::kFloat)
    return check_tile<float>(gradient, begin, end, factor, smallest_normal);
  if (gradient.dtype == DType::kBFloat16)
    return check_tile<BFloat16>(gradient, begin, end, factor, smallest_normal);
  return check_tile<Half>(gradient, begin, end, factor, smallest_normal);
}

__global__ void __launch_bounds__(kThreads) check(const __grid_constant__ GradientBatch batch) {
  const CheckOptions& options = batch.shared;
  if (options.norm != nullptr && fabsf(*options.norm) < INFINITY) return;
  const int tile = static_cast<int>(blockIdx.x), place = batch.item_of(tile);
  const Gradient& gradient = batch.items[place];
  const float factor = options.inv_scale != nullptr ? *options.inv_scale : options.factor;
  const int64_t begin = (tile - batch.first_tile[place]) * kTile;
  const Facts facts =
      check_tile(gradient, begin, min(begin + kTile, gradient.N), factor, options.smallest_normal);
  if (options.found_inf != nullptr && facts.is_bad()) *options.found_inf = 1.0f;
  if (options.facts != nullptr) add_to(options.facts[batch.before + place], facts);
}

}  // namespace

void launch_check_and_unscale(const Gradient* gradients, int64_t count, const CheckOptions& options,
                              void* stream) {
  launch_batches(&check, gradients, count, options, kTile, kThreads, stream);
}

}  // namespace mezzo::kernels::cuda
