#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "mezzo/kernels/rope/rotate.h"
#include "mezzo/kernels/simd/numbers.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kGrain = 1 << 14;

/// direction: 1, or -1 to turn back.
template <class T, RopePairs kPairs>
MEZZO_INLINE void rotate_head(const T* x, const float* cos, const float* sin, float direction, T* y,
                              int64_t pairs) {
  constexpr int64_t kStep = kPairs == RopePairs::kHalves ? 1 : 2;
  const int64_t other = kPairs == RopePairs::kHalves ? pairs : 1;
#pragma GCC ivdep
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = wide(x[kStep * i]), b = wide(x[kStep * i + other]);
    const float c = cos[i], s = direction * sin[i];
    y[kStep * i] = narrow<T>(a * c - b * s);
    y[kStep * i + other] = narrow<T>(a * s + b * c);
  }
}

template <class T, RopePairs kPairs>
MEZZO_INLINE void rotate_tokens(RopeShape of, const T* x, const float* table, float direction, T* y,
                                int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const int64_t b = token / of.T, t = token % of.T;
    const T* heads = x + b * of.batch_stride + t * of.token_stride;
    const float *cos = table + t * of.D, *sin = cos + of.D / 2;
    // One head at a time. GCC 12 would try to make vectors across heads, fail, and leave fp16's
    // loop over a head's pairs without any.
#pragma omp simd simdlen(1)
    for (int64_t h = 0; h < of.H; ++h)
      rotate_head<T, kPairs>(heads + h * of.head_stride, cos, sin, direction,
                             y + (token * of.H + h) * of.D, of.D / 2);
  }
}

template <class T, RopePairs kPairs>
void rotate(const at::Tensor& x, const at::Tensor& table, float direction, at::Tensor& y) {
  const RopeShape of = rope_shape(x);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, of.H * of.D));
  at::parallel_for(0, of.B * of.T, grain, [&](int64_t begin, int64_t end) {
    simd<rotate_tokens<T, kPairs>>(of, x.const_data_ptr<T>(), table.const_data_ptr<float>(),
                                   direction, y.mutable_data_ptr<T>(), begin, end);
  });
}

}  // namespace

at::Tensor cpu::rotate_pairs(const at::Tensor& x_in, const at::Tensor& table_in, RopePairs pairs,
                             bool is_inverse) {
  const at::Tensor x = with_dense_heads(x_in), table = table_in.contiguous();
  const float direction = is_inverse ? -1.0f : 1.0f;
  at::Tensor y = at::empty(x.sizes(), x.options());
  with_type(x, [&]<class T>(T) {
    if (pairs == RopePairs::kHalves) return rotate<T, RopePairs::kHalves>(x, table, direction, y);
    rotate<T, RopePairs::kInterleaved>(x, table, direction, y);
  });
  return y;
}

}  // namespace mezzo::kernels
