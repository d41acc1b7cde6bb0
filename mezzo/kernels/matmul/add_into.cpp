#include "mezzo/kernels/matmul/add_into.h"

#include <ATen/Parallel.h>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {
namespace {

template <class T>
MEZZO_INLINE void add_loop(float* sum, const T* part, int64_t N) {
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) sum[i] += wide(part[i]);
}

constexpr int64_t kGrain = 16384;  // elements a thread takes at least

template <class T>
void add_all(const at::Tensor& sum, const at::Tensor& part) {
  float* to = sum.mutable_data_ptr<float>();
  const T* from = part.const_data_ptr<T>();
  at::parallel_for(0, sum.numel(), kGrain, [&](int64_t begin, int64_t end) {
    simd<add_loop<T>>(to + begin, from + begin, end - begin);
  });
}

}  // namespace

void add_into(const at::Tensor& sum, const at::Tensor& part) {
  if (part.scalar_type() == at::kBFloat16) return add_all<c10::BFloat16>(sum, part);
  add_all<float>(sum, part);
}

}  // namespace mezzo::kernels
