// Compiled with -ffp-contract=off: products and sums are rounded where the source says so, and
// vector loops, their rests and all instruction sets give the same bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "mezzo/kernels/adamw/moment8.h"
#include "mezzo/kernels/adamw/pointers.h"
#include "mezzo/kernels/adamw/split.h"
#include "mezzo/kernels/adamw/update.h"
#include "mezzo/kernels/blocks.h"
#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {
namespace {

using Coefficients = AdamWCoefficients;

// What a thread works on at a time, in buffers that stay in the L1 cache: four moment blocks.
constexpr int64_t kTile = 4 * kMomentBlock;

MEZZO_INLINE void step_fp32(float* w, const float* g, float* m, float* v, int64_t N,
                            Coefficients a) {
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) {
    m[i] = next_exp_avg(m[i], g[i], a);
    v[i] = next_exp_avg_sq(v[i], g[i], a);
    w[i] = next_weight(w[i], m[i], std::sqrt(v[i]), a);
  }
}

/// The largest magnitude, by the bits: those of a NaN are larger than any number's.
MEZZO_INLINE float largest(const float* x, int64_t N) {
  uint32_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < N; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    most = most < bits ? bits : most;
  }
  return std::bit_cast<float>(most);
}

/// One moment block. position: of its first number within the tensor. Several loops over what is
/// in the L1 cache: the compiler makes vectors of each, and not of one loop that does it all.
MEZZO_INLINE void step_8bit(float* w, const float* g, int8_t* first, uint8_t* second,
                            float* first_scale, float* second_scale, int64_t position, int64_t N,
                            Coefficients a) {
  alignas(64) float m[kMomentBlock], sqrt_v[kMomentBlock];
  const float decode_m = decoding_factor(*first_scale, kTopOfFirst);
  const float decode_sqrt_v = decoding_factor(*second_scale, kTopOfSecond);
  for (int64_t i = 0; i < N; ++i) m[i] = decode_first(first[i], decode_m);
  for (int64_t i = 0; i < N; ++i) sqrt_v[i] = decode_second(second[i], decode_sqrt_v);
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) {
    m[i] = next_exp_avg(m[i], g[i], a);
    sqrt_v[i] = std::sqrt(next_exp_avg_sq(sqrt_v[i] * sqrt_v[i], g[i], a));
    w[i] = next_weight(w[i], m[i], sqrt_v[i], a);
  }
  *first_scale = largest(m, N);
  *second_scale = largest(sqrt_v, N);
  const float encode_m = encoding_factor(*first_scale, kTopOfFirst);
  const float encode_sqrt_v = encoding_factor(*second_scale, kTopOfSecond);
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) {
    const uint32_t bits = random_bits(a.step, static_cast<uint32_t>(position + i));
    first[i] = encode_first(m[i], encode_m, unit_interval(bits & 0xffffu));
    second[i] = encode_second(sqrt_v[i], encode_sqrt_v, unit_interval(bits >> 16));
  }
}

template <class T>
MEZZO_INLINE void widen_all(const T* from, float* to, int64_t N, float divisor) {
  for (int64_t i = 0; i < N; ++i) to[i] = wide(from[i]) / divisor;
}

template <class T>
MEZZO_INLINE void widen_all(const T* from, float* to, int64_t N) {
  for (int64_t i = 0; i < N; ++i) to[i] = wide(from[i]);
}

template <class T>
MEZZO_INLINE void narrow_all(const float* from, T* to, int64_t N) {
  for (int64_t i = 0; i < N; ++i) to[i] = narrow<T>(from[i]);
}

template <class T>
MEZZO_INLINE const float* gradient_of(const T* grad, int64_t N, float scale, float* buffer) {
  if (scale != 1.0f) {
    widen_all(grad, buffer, N, scale);
  } else if constexpr (std::is_same_v<T, float>) {
    return grad;
  } else {
    widen_all(grad, buffer, N);
  }
  return buffer;
}

/// N numbers of the gradient from `begin`, divided by the scale: in place if they need nothing.
MEZZO_INLINE const float* load_gradient(const AdamWPointers& p, int64_t begin, int64_t N,
                                        float* buffer) {
  const float scale = p.coefficients.grad_scale;
  switch (p.grad_dtype) {
    case c10::ScalarType::BFloat16:
      return gradient_of(static_cast<const c10::BFloat16*>(p.grad) + begin, N, scale, buffer);
    case c10::ScalarType::Half:
      return gradient_of(static_cast<const c10::Half*>(p.grad) + begin, N, scale, buffer);
    default:
      return gradient_of(static_cast<const float*>(p.grad) + begin, N, scale, buffer);
  }
}

MEZZO_INLINE float* load_weight(const AdamWPointers& p, int64_t begin, int64_t N, float* buffer) {
  if (p.weight_dtype == c10::ScalarType::Float) return static_cast<float*>(p.weight) + begin;
  if (p.weight_dtype == c10::ScalarType::Half) {
    widen_all(static_cast<const c10::Half*>(p.weight) + begin, buffer, N);
    return buffer;
  }
  const auto* high = static_cast<const c10::BFloat16*>(p.weight) + begin;
  if (p.remainder == nullptr) {
    widen_all(high, buffer, N);
    return buffer;
  }
  const int16_t* remainder = p.remainder + begin;
  for (int64_t i = 0; i < N; ++i) buffer[i] = join(high[i], remainder[i]);
  return buffer;
}

MEZZO_INLINE void store_weight(const AdamWPointers& p, int64_t begin, int64_t N, const float* w) {
  if (p.weight_dtype == c10::ScalarType::Float) return;  // stepped in place
  if (p.weight_dtype == c10::ScalarType::Half) {
    narrow_all(w, static_cast<c10::Half*>(p.weight) + begin, N);
    return;
  }
  auto* high = static_cast<c10::BFloat16*>(p.weight) + begin;
  if (p.remainder == nullptr) {
    narrow_all(w, high, N);
    return;
  }
  int16_t* remainder = p.remainder + begin;
  for (int64_t i = 0; i < N; ++i) high[i] = split(w[i]).high;
  for (int64_t i = 0; i < N; ++i) remainder[i] = split(w[i]).remainder;
}

MEZZO_INLINE void step_tile(const AdamWPointers& p, int64_t begin, int64_t N) {
  alignas(64) float weights[kTile], gradients[kTile];
  float* w = load_weight(p, begin, N, weights);
  const float* g = load_gradient(p, begin, N, gradients);
  if (p.exp_avg_scale == nullptr) {
    step_fp32(w, g, static_cast<float*>(p.exp_avg) + begin,
              static_cast<float*>(p.exp_avg_sq) + begin, N, p.coefficients);
  } else {
    for (int64_t i = 0; i < N; i += kMomentBlock) {
      const int64_t here = begin + i, block = here / kMomentBlock;
      step_8bit(w + i, g + i, static_cast<int8_t*>(p.exp_avg) + here,
                static_cast<uint8_t*>(p.exp_avg_sq) + here, p.exp_avg_scale + block,
                p.exp_avg_sq_scale + block, here, std::min(kMomentBlock, N - i), p.coefficients);
    }
  }
  store_weight(p, begin, N, w);
}

/// Numbers [begin, end) of a parameter.
MEZZO_INLINE void step_range(const AdamWPointers* p, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kTile) {
    step_tile(*p, at, kTile < end - at ? kTile : end - at);
  }
}

}  // namespace

void cpu::adamw_(const std::vector<AdamWPointers>& params) {
  Blocks tiles(kTile);
  for (const AdamWPointers& p : params) tiles.add(p.N);
  tiles.share_out([&](size_t i, int64_t begin, int64_t end) {
    const int64_t first = tiles.first(i);
    simd<step_range>(&params[i], (begin - first) * kTile,
                     std::min((end - first) * kTile, params[i].N));
  });
}

}  // namespace mezzo::kernels
