#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {

// Loops of linear_cross_entropy over one row of logits; T is float or BFloat16.

/// What the loss needs of a row: sums of differences to the largest logit, so that nothing
/// overflows. NaN if a logit is.
struct RowSums {
  float largest;
  double exponentials;  // sum of exp(z - largest)
  double differences;   // sum of z - largest
};

/// exponentials: [V], exp(z - largest) of each.
template <class T>
MEZZO_INLINE RowSums row_sums(const T* logits, int64_t V, float* exponentials) {
  float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < V; ++j) largest = std::max(largest, wide(logits[j]));
  RowSums sums{largest, 0.0, 0.0};
  constexpr int64_t kBlock = 512;  // terms that are summed in fp32
  for (int64_t begin = 0; begin < V; begin += kBlock) {
    float sum = 0.0f, differences = 0.0f;
#pragma omp simd reduction(+ : sum, differences)
    for (int64_t j = begin; j < std::min(begin + kBlock, V); ++j) {
      const float difference = wide(logits[j]) - largest;
      exponentials[j] = exp_of(difference);
      sum += exponentials[j];
      differences += difference;
    }
    sums.exponentials += sum;
    sums.differences += differences;
  }
  return sums;
}

/// How a row counts.
struct RowTerms {
  double label_smoothing;
  double z_loss;
  double gradient_scale;  // of the loss in the mean
  bool wants_gradient;
};

/// The loss of one row; its logits become its gradient times gradient_scale where that is wanted.
/// exponentials: room for [V], in which the second loop finds what the first has computed.
template <class T>
MEZZO_INLINE double row_loss(T* __restrict logits, int64_t V, int64_t target, RowTerms terms,
                             float* __restrict exponentials) {
  const RowSums sums = row_sums(logits, V, exponentials);
  const double s = terms.label_smoothing, log_sum = std::log(sums.exponentials);
  const double lse = sums.largest + log_sum;
  const float of_target = wide(logits[target]) - sums.largest;
  double loss = log_sum - (1.0 - s) * of_target + terms.z_loss * lse * lse;
  if (s > 0.0) loss -= s * sums.differences / static_cast<double>(V);
  if (!terms.wants_gradient) return loss;

  // d loss / d z = (1 + 2 z_loss lse) softmax - s / V, and -(1 - s) at the target.
  const auto softmax_scale = static_cast<float>(
      terms.gradient_scale * (1.0 + 2.0 * terms.z_loss * lse) / sums.exponentials);
  const auto smoothed = static_cast<float>(terms.gradient_scale * s / static_cast<double>(V));
  const auto at_target = static_cast<float>(terms.gradient_scale * (1.0 - s));
#pragma omp simd
  for (int64_t j = 0; j < V; ++j) logits[j] = narrow<T>(exponentials[j] * softmax_scale - smoothed);
  logits[target] = narrow<T>(exponentials[target] * softmax_scale - smoothed - at_target);
  return loss;
}

}  // namespace mezzo::kernels
