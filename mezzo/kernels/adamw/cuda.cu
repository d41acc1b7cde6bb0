// Compiled with --fmad=false: products and sums are rounded where the source says so, as on a CPU.
#include "mezzo/kernels/adamw/cuda.h"
#include "mezzo/kernels/adamw/moment8.h"
#include "mezzo/kernels/adamw/split.h"
#include "mezzo/kernels/adamw/update.h"
#include "mezzo/kernels/cuda/batch.cuh"
#include "mezzo/kernels/cuda/numbers.cuh"

// A warp takes a block of moments, four numbers to a lane; a block of threads takes a tile of a
// tensor, and a launch the tiles of several tensors, one after the other.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;
static_assert(kEach * kWarp == kMomentBlock);
constexpr int64_t kTile = 64 * kMomentBlock;
using AdamWBatch = Batch<AdamWTensor, AdamWShared, 28>;

/// Numbers [at, at + 4) of a tensor, of which `count` are there.
struct Place {
  int64_t at;
  int count;
  bool is_whole;  // all four, at one access
};

template <class T>
__device__ __forceinline__ void fetch(const void* base, Place p, T (&to)[kEach]) {
  const T* from = static_cast<const T*>(base) + p.at;
  if (p.is_whole) {
    const auto pack = load<kEach>(from);
    for (int k = 0; k < kEach; ++k) to[k] = pack.at[k];
  } else {
    for (int k = 0; k < p.count; ++k) to[k] = from[k];
  }
}

template <class T>
__device__ __forceinline__ void put(void* base, Place p, const T (&from)[kEach]) {
  T* to = static_cast<T*>(base) + p.at;
  if (p.is_whole) {
    Pack<T, kEach> pack;
    for (int k = 0; k < kEach; ++k) pack.at[k] = from[k];
    store(to, pack);
  } else {
    for (int k = 0; k < p.count; ++k) to[k] = from[k];
  }
}

template <class T>
__device__ __forceinline__ void fetch_wide(const void* base, Place p, float (&to)[kEach]) {
  T values[kEach] = {};
  fetch(base, p, values);
  for (int k = 0; k < kEach; ++k) to[k] = wide(values[k]);
}

__device__ __forceinline__ void fetch_wide(DType dtype, const void* base, Place p,
                                           float (&to)[kEach]) {
  if (dtype == DType::kFloat) return fetch_wide<float>(base, p, to);
  if (dtype == DType::kBFloat16) return fetch_wide<BFloat16>(base, p, to);
  fetch_wide<Half>(base, p, to);
}

template <class T>
__device__ __forceinline__ void put_narrow(void* base, Place p, const float (&from)[kEach]) {
  T values[kEach];
  for (int k = 0; k < kEach; ++k) values[k] = narrow<T>(from[k]);
  put(base, p, values);
}

__device__ __forceinline__ void fetch_weight(const AdamWTensor& t, Place p, float (&w)[kEach]) {
  if (t.remainder == nullptr) return fetch_wide(t.weight_dtype, t.weight, p, w);
  uint16_t high[kEach] = {};
  int16_t remainder[kEach] = {};
  fetch(t.weight, p, high);
  fetch(t.remainder, p, remainder);
  for (int k = 0; k < kEach; ++k)
    w[k] = join(c10::BFloat16(high[k], c10::BFloat16::from_bits()), remainder[k]);
}

__device__ __forceinline__ void put_weight(const AdamWTensor& t, Place p, const float (&w)[kEach]) {
  if (t.remainder != nullptr) {
    uint16_t high[kEach];
    int16_t remainder[kEach];
    for (int k = 0; k < kEach; ++k) {
      const SplitFloat halves = split(w[k]);
      high[k] = halves.high.x;
      remainder[k] = halves.remainder;
    }
    put(t.weight, p, high);
    put(t.remainder, p, remainder);
  } else if (t.weight_dtype == DType::kFloat) {
    put(t.weight, p, w);
  } else if (t.weight_dtype == DType::kBFloat16) {
    put_narrow<BFloat16>(t.weight, p, w);
  } else {
    put_narrow<Half>(t.weight, p, w);
  }
}

__device__ __forceinline__ void step_fp32(const AdamWTensor& t, Place p, const AdamWCoefficients& a,
                                          const float (&g)[kEach], float (&w)[kEach]) {
  float m[kEach] = {}, v[kEach] = {};
  fetch(t.exp_avg, p, m);
  fetch(t.exp_avg_sq, p, v);
  for (int k = 0; k < kEach; ++k) {
    m[k] = next_exp_avg(m[k], g[k], a);
    v[k] = next_exp_avg_sq(v[k], g[k], a);
    w[k] = next_weight(w[k], m[k], sqrtf(v[k]), a);
  }
  put(t.exp_avg, p, m);
  put(t.exp_avg_sq, p, v);
}

/// The largest magnitude of the warp's numbers, by the bits: those of a NaN are larger than any
/// number's.
__device__ __forceinline__ float largest(const float (&x)[kEach], int count) {
  unsigned most = 0;
  for (int k = 0; k < count; ++k) most = max(most, __float_as_uint(x[k]) & 0x7fffffffu);
  return __uint_as_float(warp_max(most));
}

__device__ __forceinline__ void step_8bit(const AdamWTensor& t, Place p, const AdamWCoefficients& a,
                                          const float (&g)[kEach], float (&w)[kEach]) {
  const int64_t block = p.at / kMomentBlock;  // the same for the whole warp
  const float decode_m = decoding_factor(t.exp_avg_scale[block], kTopOfFirst);
  const float decode_sqrt_v = decoding_factor(t.exp_avg_sq_scale[block], kTopOfSecond);
  int8_t first[kEach] = {};
  uint8_t second[kEach] = {};
  float m[kEach], sqrt_v[kEach];
  fetch(t.exp_avg, p, first);
  fetch(t.exp_avg_sq, p, second);
  for (int k = 0; k < kEach; ++k) {
    m[k] = next_exp_avg(decode_first(first[k], decode_m), g[k], a);
    const float before = decode_second(second[k], decode_sqrt_v);
    sqrt_v[k] = sqrtf(next_exp_avg_sq(before * before, g[k], a));
    w[k] = next_weight(w[k], m[k], sqrt_v[k], a);
  }
  const float m_scale = largest(m, p.count), sqrt_v_scale = largest(sqrt_v, p.count);
  const float encode_m = encoding_factor(m_scale, kTopOfFirst);
  const float encode_sqrt_v = encoding_factor(sqrt_v_scale, kTopOfSecond);
  for (int k = 0; k < kEach; ++k) {
    const uint32_t bits = random_bits(a.step, static_cast<uint32_t>(p.at + k));
    first[k] = encode_first(m[k], encode_m, unit_interval(bits & 0xffffu));
    second[k] = encode_second(sqrt_v[k], encode_sqrt_v, unit_interval(bits >> 16));
  }
  put(t.exp_avg, p, first);
  put(t.exp_avg_sq, p, second);
  if (threadIdx.x % kWarp == 0) {
    t.exp_avg_scale[block] = m_scale;
    t.exp_avg_sq_scale[block] = sqrt_v_scale;
  }
}

/// From what only the device knows, where there is any of it.
__device__ AdamWCoefficients coefficients_of(const AdamWTensor& t, const AdamWShared& shared) {
  if (t.step == nullptr) return t.coefficients;
  AdamWSettings settings = shared.settings;
  if (shared.lr != nullptr) settings.lr = *shared.lr;
  const float grad_scale = shared.grad_scale != nullptr ? *shared.grad_scale : 1.0f;
  return adamw_coefficients(settings, static_cast<uint32_t>(*t.step), grad_scale);
}

__global__ void __launch_bounds__(kThreads) adamw(const __grid_constant__ AdamWBatch batch) {
  if (batch.shared.found_inf != nullptr && *batch.shared.found_inf != 0.0f) return;
  const int tile = static_cast<int>(blockIdx.x), place = batch.item_of(tile);
  const AdamWTensor& t = batch.items[place];
  __shared__ AdamWCoefficients coefficients;
  if (threadIdx.x == 0) coefficients = coefficients_of(t, batch.shared);
  __syncthreads();
  const AdamWCoefficients a = coefficients;

  const int64_t begin = (tile - batch.first_tile[place]) * kTile;
  const int64_t end = min(begin + kTile, t.N);
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t block = begin + warp * kMomentBlock; block < end;
       block += (kThreads / kWarp) * kMomentBlock) {
    // Lanes beyond the end stay with their warp, which compares all of its numbers, at no number.
    const int64_t at = block + kEach * lane;
    const int count = static_cast<int>(max(int64_t{0}, min(int64_t{kEach}, end - at)));
    const Place p{at, count, count == kEach && t.is_aligned};
    float g[kEach] = {}, w[kEach] = {};
    fetch_wide(t.grad_dtype, t.grad, p, g);
    for (int k = 0; k < kEach; ++k) g[k] = a.grad_scale == 1.0f ? g[k] : g[k] / a.grad_scale;
    fetch_weight(t, p, w);
    if (t.exp_avg_scale == nullptr) {
      step_fp32(t, p, a, g, w);
    } else {
      step_8bit(t, p, a, g, w);
    }
    put_weight(t, p, w);
  }
}

}  // namespace

void launch_adamw(const AdamWTensor* tensors, int64_t count, const AdamWShared& shared,
                  void* stream) {
  launch_batches(&adamw, tensors, count, shared, kTile, kThreads, stream);
}

}  // namespace mezzo::kernels::cuda
