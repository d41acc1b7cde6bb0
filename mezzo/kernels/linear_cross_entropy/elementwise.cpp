#include "mezzo/kernels/linear_cross_entropy/elementwise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {
namespace {

template <class From, class To>
MEZZO_INLINE void scale_loop(const From* from, To* to, float factor, int64_t N) {
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) to[i] = narrow<To>(wide(from[i]) * factor);
}

constexpr int64_t kGrain = 16384;  // elements a thread takes at least

template <class From, class To>
void scale_all(const at::Tensor& x, const at::Tensor& out, float factor) {
  const From* from = x.const_data_ptr<From>();
  To* to = out.mutable_data_ptr<To>();
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    simd<scale_loop<From, To>>(from + begin, to + begin, factor, end - begin);
  });
}

}  // namespace

at::Tensor scaled(const at::Tensor& x, float factor, at::ScalarType dtype) {
  if (!x.defined() || (factor == 1.0f && x.scalar_type() == dtype)) return x;
  at::Tensor out = at::empty_like(x, x.options().dtype(dtype));
  if (x.scalar_type() == at::kBFloat16) {
    scale_all<c10::BFloat16, c10::BFloat16>(x, out, factor);
  } else if (dtype == at::kBFloat16) {
    scale_all<float, c10::BFloat16>(x, out, factor);
  } else if (dtype == at::kHalf) {
    scale_all<float, c10::Half>(x, out, factor);
  } else {
    scale_all<float, float>(x, out, factor);
  }
  return out;
}

}  // namespace mezzo::kernels
