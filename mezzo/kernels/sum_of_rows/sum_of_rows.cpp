#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/rows.h"
#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {
namespace {

// Of one partial sum: fixed, so that the order of the additions is, for any number of threads. The
// sums of a strip of columns stay in the first cache.
constexpr int64_t kRows = 64, kColumns = 2048;
constexpr int64_t kGrain = 1 << 15;  // elements that are worth a thread

/// sum [columns] = the sum of the rows of x [rows, stride]. Four at a time: sums are fetched and
/// put back a quarter as often.
template <class T>
MEZZO_INLINE void sum_strip(const T* x, int64_t stride, int64_t rows, int64_t columns, float* sum) {
  for (int64_t i = 0; i < columns; ++i) sum[i] = 0.0f;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const T *a = x + row * stride, *b = a + stride, *c = b + stride, *d = c + stride;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i)
      sum[i] += (wide(a[i]) + wide(b[i])) + (wide(c[i]) + wide(d[i]));
  }
  for (; row < rows; ++row) {
    const T* a = x + row * stride;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) sum[i] += wide(a[i]);
  }
}

/// rows [N, C] -> [ceil(N / kRows), C]
template <class T>
at::Tensor partial_sums(const at::Tensor& rows) {
  const int64_t N = rows.size(0), C = rows.size(1), strips = ceil_div(C, kColumns);
  at::Tensor sums = at::empty({ceil_div(N, kRows), C}, at::kFloat);
  const T* x = rows.const_data_ptr<T>();
  float* to = sums.mutable_data_ptr<float>();
  const int64_t grain = ceil_div(kGrain, kRows * std::clamp<int64_t>(C, 1, kColumns));
  at::parallel_for(0, sums.size(0) * strips, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / strips, row = part * kRows, column = i % strips * kColumns;
      simd<sum_strip<T>>(x + row * C + column, C, std::min(kRows, N - row),
                         std::min(kColumns, C - column), to + part * C + column);
    }
  });
  return sums;
}

template <class T>
at::Tensor sum_on_cpu(const at::Tensor& rows) {
  at::Tensor sums = partial_sums<T>(rows);
  while (sums.size(0) > 1) sums = partial_sums<float>(sums);
  return sums.size(0) == 1 ? sums[0] : at::zeros({rows.size(1)}, at::kFloat);
}

}  // namespace

at::Tensor sum_of_rows(const at::Tensor& x) {
  const at::Tensor rows = rows_of(x).contiguous();
  if (x.is_cpu() && x.scalar_type() == at::kFloat) return sum_on_cpu<float>(rows);
  if (x.is_cpu() && x.scalar_type() == at::kBFloat16) return sum_on_cpu<c10::BFloat16>(rows);
  if (x.is_cpu() && x.scalar_type() == at::kHalf) return sum_on_cpu<c10::Half>(rows);
  return reference::sum_of_rows(x);
}

at::Tensor reference::sum_of_rows(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::sum(rows_of(x), {0}, false, type);
}

}  // namespace mezzo::kernels
