#include <algorithm>
#include <mutex>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/kernels/simd/bits.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels {
namespace {

// Counts fit the bits' own type within a block, which keeps all lanes of one width.
constexpr int64_t kBlock = 4096;

template <class Bits>
struct Counts {
  Bits nan = 0, infinite = 0, negative_inf = 0, zeros = 0, subnormals = 0, largest = 0;
};

template <class T, class Bits = BitsOf<T>>
MEZZO_INLINE Counts<Bits> count_block(const Bits* x, int64_t N) {
  Bits nan = 0, infinite = 0, negative = 0, zeros = 0, small = 0, largest = 0;
#pragma omp simd reduction(+ : nan, infinite, negative, zeros, small) reduction(max : largest)
  for (int64_t i = 0; i < N; ++i) {
    const Bits magnitude = x[i] & Bits(~kSign<T>);
    nan = Bits(nan + (magnitude > kInf<T>));
    infinite = Bits(infinite + (magnitude == kInf<T>));
    negative = Bits(negative + (x[i] == Bits(kInf<T> | kSign<T>)));
    zeros = Bits(zeros + (magnitude == 0));
    small = Bits(small + (magnitude < kSmallestNormal<T>));
    const Bits finite = magnitude < kInf<T> ? magnitude : Bits(0);
    largest = largest < finite ? finite : largest;
  }
  return {nan, infinite, negative, zeros, Bits(small - zeros), largest};
}

template <class Bits>
void add(TensorStats& stats, Bits& largest, const Counts<Bits>& block) {
  stats.nan += static_cast<int64_t>(block.nan);
  stats.negative_inf += static_cast<int64_t>(block.negative_inf);
  stats.positive_inf += static_cast<int64_t>(block.infinite - block.negative_inf);
  stats.zeros += static_cast<int64_t>(block.zeros);
  stats.subnormals += static_cast<int64_t>(block.subnormals);
  largest = std::max(largest, block.largest);
}

template <class T, class Bits = BitsOf<T>>
TensorStats stats_of(const at::Tensor& dense) {
  const auto* bits = static_cast<const Bits*>(dense.const_data_ptr());
  const int64_t N = dense.numel();
  TensorStats all;
  Bits largest = 0;
  std::mutex mutex;
  at::parallel_for(0, N, 8 * kBlock, [&](int64_t begin, int64_t end) {
    TensorStats part;
    Bits part_largest = 0;
    for (int64_t at = begin; at < end; at += kBlock) {
      add(part, part_largest, simd<count_block<T>>(bits + at, std::min(kBlock, end - at)));
    }
    const std::scoped_lock lock(mutex);
    all.nan += part.nan;
    all.positive_inf += part.positive_inf;
    all.negative_inf += part.negative_inf;
    all.zeros += part.zeros;
    all.subnormals += part.subnormals;
    largest = std::max(largest, part_largest);
  });
  all.numel = N;
  all.largest = value_of<T>(largest);
  return all;
}

}  // namespace

bool cpu::takes_stats(const at::Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
  return tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.numel() > 0 &&
         (dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf ||
          dtype == at::kBFloat16);
}

TensorStats cpu::tensor_stats(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  const at::Tensor dense =
      tensor.is_non_overlapping_and_dense() ? tensor : tensor.detach().contiguous();
  switch (dense.scalar_type()) {
    case at::kDouble:
      return stats_of<double>(dense);
    case at::kHalf:
      return stats_of<c10::Half>(dense);
    case at::kBFloat16:
      return stats_of<c10::BFloat16>(dense);
    default:
      return stats_of<float>(dense);
  }
}

}  // namespace mezzo::kernels
