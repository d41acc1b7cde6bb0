#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/kernels/exponent_counts/exponent_counts.h"
#include "mezzo/kernels/simd/simd.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels {
namespace {

// A number of 16 bits is one of 32,768 magnitudes, whose counts say all there is to know, exactly.
// A table of them fits a core's second cache. Of an fp32 the upper 16 bits hold its exponent.
constexpr size_t kMagnitudes = size_t{1} << 15;
constexpr int64_t kGrain = 65536;  // elements for which a thread is worth a table
using Table = std::vector<int64_t>;

template <class Bits>
Table magnitudes_of(const at::Tensor& dense) {
  constexpr int kShift = 8 * (sizeof(Bits) - 2);
  const auto* bits = static_cast<const Bits*>(dense.const_data_ptr());
  Table all(kMagnitudes);
  std::mutex mutex;
  at::parallel_for(0, dense.numel(), kGrain, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> part(kMagnitudes);  // parallel_for's parts are far below 2^32 elements
    for (int64_t i = begin; i < end; ++i) ++part[(bits[i] >> kShift) & (kMagnitudes - 1)];
    const std::scoped_lock lock(mutex);
    for (size_t i = 0; i < kMagnitudes; ++i) all[i] += part[i];
  });
  return all;
}

// Type: c10::Half or c10::BFloat16.
template <class Type>
ExponentCounts counts_of_16_bits(const at::Tensor& dense) {
  const Table table = magnitudes_of<uint16_t>(dense);
  ExponentCounts counts;
  counts.zeros = table[0];
  for (size_t i = 0; i < kMagnitudes; ++i) {
    if (table[i] == 0) continue;
    const auto x = static_cast<float>(Type(static_cast<uint16_t>(i), Type::from_bits()));
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    counts.by_exponent[bits >> 23] += table[i];
    if (!std::isfinite(x)) continue;
    counts.largest = x;  // the table is in the order of magnitudes
    counts.sum_squares += static_cast<double>(table[i]) * x * x;
  }
  return counts;
}

MEZZO_INLINE double sum_squares(const float* x, int64_t N) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < N; ++i) {
    const double finite = std::abs(x[i]) <= 0x1.fffffep+127f ? x[i] : 0.0f;
    sum += finite * finite;
  }
  return sum;
}

ExponentCounts counts_of_fp32(const at::Tensor& dense) {
  const Table table = magnitudes_of<uint32_t>(dense);
  ExponentCounts counts;
  for (size_t i = 0; i < kMagnitudes; ++i) counts.by_exponent[i >> 7] += table[i];
  const TensorStats stats = tensor_stats(dense);
  counts.zeros = stats.zeros;
  counts.largest = stats.largest;
  const auto* x = dense.const_data_ptr<float>();
  std::mutex mutex;
  at::parallel_for(0, dense.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const double part = simd<sum_squares>(x + begin, end - begin);
    const std::scoped_lock lock(mutex);
    counts.sum_squares += part;
  });
  return counts;
}

}  // namespace

ExponentCounts cpu::exponent_counts(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  const at::Tensor dense =
      tensor.is_non_overlapping_and_dense() ? tensor : tensor.detach().contiguous();
  switch (dense.scalar_type()) {
    case at::kHalf:
      return counts_of_16_bits<c10::Half>(dense);
    case at::kBFloat16:
      return counts_of_16_bits<c10::BFloat16>(dense);
    default:
      return counts_of_fp32(dense);
  }
}

}  // namespace mezzo::kernels
