#include <cfloat>
#include <cmath>

#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/linear_cross_entropy/cuda.h"

// A block takes a row: one pass finds the largest logit and the sum of exponentials, a second one
// writes the gradient over the logits, which the cache still holds.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 512;

/// Sums relative to the largest logit so far, which they are moved to when a larger one comes.
struct RowSums {
  float largest = -FLT_MAX;
  float exponentials = 0.0f;
  float logits = 0.0f;  // for label smoothing

  /// All of z relative to their largest, so that no exponential waits for another. A NaN is never
  /// the largest, but its exponential tells of it.
  template <int N>
  __device__ void add(const float (&z)[N]) {
    float most = largest;
#pragma unroll
    for (int k = 0; k < N; ++k) most = fmaxf(most, z[k]);
    exponentials *= __expf(largest - most);
    largest = most;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      exponentials += __expf(z[k] - most);
      logits += z[k];
    }
  }
  __device__ void merge(const RowSums& other) {
    const float most = fmaxf(largest, other.largest);
    exponentials =
        exponentials * __expf(largest - most) + other.exponentials * __expf(other.largest - most);
    largest = most;
    logits += other.logits;
  }
};

__device__ __forceinline__ RowSums of_warp(RowSums sums) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    RowSums other;
    other.largest = __shfl_xor_sync(0xffffffffu, sums.largest, step);
    other.exponentials = __shfl_xor_sync(0xffffffffu, sums.exponentials, step);
    other.logits = __shfl_xor_sync(0xffffffffu, sums.logits, step);
    sums.merge(other);
  }
  return sums;
}

__device__ __forceinline__ RowSums of_block(RowSums sums) {
  __shared__ RowSums by_warp[kThreads / kWarp];
  sums = of_warp(sums);
  if (threadIdx.x % kWarp == 0) by_warp[threadIdx.x / kWarp] = sums;
  __syncthreads();
  RowSums all = by_warp[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) all.merge(by_warp[warp]);
  return all;
}

/// Adds a thread's logits from `at` on, as long as there are whole groups of Packs accesses, which
/// are under way at once. Returns where the rest begins.
template <int Width, int Packs, class T>
__device__ __forceinline__ int64_t add_groups(RowSums& sums, const T* logits, int64_t at,
                                              int64_t V) {
  constexpr int64_t kStride = Width * kThreads;
  for (; at + (Packs - 1) * kStride < V; at += Packs * kStride) {
    float z[Packs * Width];
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
      const auto pack = load<Width>(logits + at + p * kStride);
#pragma unroll
      for (int k = 0; k < Width; ++k) z[p * Width + k] = wide(pack.at[k]);
    }
    sums.add(z);
  }
  return at;
}

template <class T, int Width>
__device__ void write_gradient(T* logits, const LossRows& a, int64_t target, const RowSums& sums,
                               float lse) {
  const float s = a.label_smoothing;
  // d loss / d z = (1 + 2 z_loss lse) softmax - s / V, and -(1 - s) at the target.
  const float softmax_scale = (1.0f + 2.0f * a.z_loss * lse) / sums.exponentials;
  const float smoothed = s / static_cast<float>(a.V), at_target = 1.0f - s;
  for (int64_t at = Width * int64_t{threadIdx.x}; at < a.V; at += Width * kThreads) {
    auto pack = load<Width>(logits + at);
#pragma unroll
    for (int k = 0; k < Width; ++k) {
      float grad = __expf(wide(pack.at[k]) - sums.largest) * softmax_scale - smoothed;
      if (at + k == target) grad -= at_target;
      pack.at[k] = narrow<T>(grad);
    }
    store(logits + at, pack);
  }
}

template <class T, int Width>
__global__ void __launch_bounds__(kThreads) loss_rows(LossRows a) {
  const int64_t row = blockIdx.x, target = a.targets[row];
  T* logits = static_cast<T*>(a.logits) + row * a.V;
  const bool is_ignored = target == a.ignore_index;
  if (is_ignored || target < 0 || target >= a.V) {
    // No logit is a wrong target's. The host is not asked; NaN will be noticed.
    const float value = is_ignored ? 0.0f : NAN;
    if (threadIdx.x == 0) a.losses[row] = value;
    if (!a.wants_gradient) return;
    for (int64_t i = threadIdx.x; i < a.V; i += kThreads) logits[i] = narrow<T>(value);
    return;
  }
  RowSums sums;
  const int64_t rest = add_groups<Width, 4>(sums, logits, Width * int64_t{threadIdx.x}, a.V);
  add_groups<Width, 1>(sums, logits, rest, a.V);
  sums = of_block(sums);
  const float log_sum = logf(sums.exponentials), lse = sums.largest + log_sum;
  if (threadIdx.x == 0) {
    const float s = a.label_smoothing, of_target = wide(logits[target]) - sums.largest;
    float loss = log_sum - (1.0f - s) * of_target + a.z_loss * lse * lse;
    if (s > 0.0f) loss -= s * (sums.logits / static_cast<float>(a.V) - sums.largest);
    a.losses[row] = loss;
  }
  if (!a.wants_gradient) return;
  __syncthreads();  // the target's logit has been read
  write_gradient<T, Width>(logits, a, target, sums, lse);
}

}  // namespace

void launch_loss_rows(const LossRows& a, void* stream) {
  if (a.rows == 0) return;
  with_dtype(a.dtype, [&]<class T>(T) {
    constexpr int kWidth = 16 / sizeof(T);
    if (a.V % kWidth == 0) {
      launch(loss_rows<T, kWidth>, a.rows, kThreads, stream, a);
    } else {
      launch(loss_rows<T, 1>, a.rows, kThreads, stream, a);
    }
  });
}

}  // namespace mezzo::kernels::cuda
