#pragma once

#include <cmath>
#include <cstdint>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {

// The loops over rows [begin, end). T: dtype of the residual stream, B: of the branch, O: of what
// is normalised. A row lies in the first cache while it is read again.

template <class T, class B, class O>
struct NormRows {
  const T* x;
  const B* branch;  // null: sum is x
  const float *weight, *bias;
  T* sum;
  O* normed;
  float* mean;  // null: RMSNorm, which has none
  float* rstd;
  int64_t C;
  float eps;
};

template <class T>
MEZZO_INLINE float mean_of(const T* row, int64_t C) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < C; ++i) total += wide(row[i]);
  return total / static_cast<float>(C);
}

template <class T>
MEZZO_INLINE float variance_of(const T* row, float mean, int64_t C) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < C; ++i) total += (wide(row[i]) - mean) * (wide(row[i]) - mean);
  return total / static_cast<float>(C);
}

template <class T, class O>
MEZZO_INLINE void normalise(const T* row, float mean, float rstd, const float* weight,
                            const float* bias, O* normed, int64_t C) {
  for (int64_t i = 0; i < C; ++i)
    normed[i] = narrow<O>((wide(row[i]) - mean) * rstd * weight[i] + bias[i]);
}

template <class T, class B, class O>
MEZZO_INLINE void norm_rows(NormRows<T, B, O> a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* sum = a.x + row * a.C;
    if (a.branch != nullptr) {
      const T* x = sum;
      const B* branch = a.branch + row * a.C;
      T* written = a.sum + row * a.C;
      for (int64_t i = 0; i < a.C; ++i) written[i] = narrow<T>(wide(x[i]) + wide(branch[i]));
      sum = written;
    }
    const float mean = a.mean == nullptr ? 0.0f : mean_of(sum, a.C);
    const float rstd = 1.0f / std::sqrt(variance_of(sum, mean, a.C) + a.eps);
    if (a.mean != nullptr) a.mean[row] = mean;
    a.rstd[row] = rstd;
    normalise(sum, mean, rstd, a.weight, a.bias, a.normed + row * a.C, a.C);
  }
}

template <class T, class O>
MEZZO_INLINE void norm_again_rows(const T* sum, const float* mean, const float* rstd,
                                  const float* weight, const float* bias, O* normed, int64_t C,
                                  int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    normalise(sum + row * C, mean == nullptr ? 0.0f : mean[row], rstd[row], weight, bias,
              normed + row * C, C);
}

template <class T, class O>
struct NormGradRows {
  const O* grad_normed;
  const T* grad_sum;  // null: zero
  const T* sum;
  const float* mean;  // null: RMSNorm
  const float *rstd, *weight, *bias;
  T* grad_x;
  O *grad_branch, *normed;  // null: not wanted
  int64_t C;
};

/// Adds the rows' share of the weight's and the bias's gradient to grad_weight and grad_bias.
template <class T, class O>
MEZZO_INLINE void norm_grad_rows(NormGradRows<T, O> a, float* grad_weight, float* grad_bias,
                                 int64_t begin, int64_t end) {
  const float per_element = 1.0f / static_cast<float>(a.C);
  for (int64_t row = begin; row < end; ++row) {
    const O* grad = a.grad_normed + row * a.C;
    const T* sum = a.sum + row * a.C;
    const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
    float along_one = 0, along_unit = 0;
#pragma omp simd reduction(+ : along_one, along_unit)
    for (int64_t i = 0; i < a.C; ++i) {
      const float g = wide(grad[i]), unit = (wide(sum[i]) - mean) * rstd;
      along_one += g * a.weight[i];
      along_unit += g * a.weight[i] * unit;
      grad_weight[i] += g * unit;
      grad_bias[i] += g;
    }
    along_one = a.mean == nullptr ? 0.0f : along_one * per_element;
    along_unit *= per_element;
    const T* before = a.grad_sum == nullptr ? nullptr : a.grad_sum + row * a.C;
    T* grad_x = a.grad_x + row * a.C;
    for (int64_t i = 0; i < a.C; ++i) {
      const float unit = (wide(sum[i]) - mean) * rstd;
      const float through = rstd * (wide(grad[i]) * a.weight[i] - along_one - unit * along_unit);
      grad_x[i] = narrow<T>(before == nullptr ? through : wide(before[i]) + through);
    }
    if (a.grad_branch != nullptr) {
      O* grad_branch = a.grad_branch + row * a.C;
      for (int64_t i = 0; i < a.C; ++i) grad_branch[i] = narrow<O>(wide(grad_x[i]));
    }
    if (a.normed != nullptr)
      normalise(sum, mean, rstd, a.weight, a.bias, a.normed + row * a.C, a.C);
  }
}

}  // namespace mezzo::kernels
