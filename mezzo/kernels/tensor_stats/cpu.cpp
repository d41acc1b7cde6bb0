#include <algorithm>
#include <mutex>
#include <vector>

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

bool is_readable(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided;
}

// Murmur3's finisher (Appleby, public domain) on the element and its place.
template <class Bits>
MEZZO_INLINE uint64_t hash_block(const Bits* x, int64_t N, int64_t first) {
  uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < N; ++i) {
    auto mix = static_cast<uint32_t>(x[i] ^ (static_cast<uint64_t>(x[i]) >> 32));
    mix ^= static_cast<uint32_t>(first + i) * 0x9e3779b9u;
    mix ^= mix >> 16;
    mix *= 0x85ebca6bu;
    mix ^= mix >> 13;
    mix *= 0xc2b2ae35u;
    mix ^= mix >> 16;
    sum += mix;
  }
  return sum;
}

template <class Bits>
uint64_t hash_of(const at::Tensor& contiguous) {
  const auto* bits = static_cast<const Bits*>(contiguous.const_data_ptr());
  const int64_t N = contiguous.numel();
  const int64_t blocks = (N + kBlock - 1) / kBlock;
  std::vector<uint64_t> sums(static_cast<size_t>(blocks));
  at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlock;
      sums[static_cast<size_t>(i)] =
          simd<hash_block<Bits>>(bits + first, std::min(kBlock, N - first), first);
    }
  });
  uint64_t hash = static_cast<uint64_t>(N);
  for (const uint64_t sum : sums) hash += sum;
  return hash;
}

}  // namespace

TensorStats tensor_stats(const at::Tensor& tensor) {
  if (tensor.numel() == 0 || !tensor.is_floating_point() || !is_readable(tensor))
    return reference::tensor_stats(tensor);
  const at::NoGradGuard no_grad;
  const at::Tensor dense =
      tensor.is_non_overlapping_and_dense() ? tensor : tensor.detach().contiguous();
  switch (dense.scalar_type()) {
    case at::kDouble:
      return stats_of<double>(dense);
    case at::kFloat:
      return stats_of<float>(dense);
    case at::kHalf:
      return stats_of<c10::Half>(dense);
    case at::kBFloat16:
      return stats_of<c10::BFloat16>(dense);
    default:
      return reference::tensor_stats(tensor);
  }
}

uint64_t content_hash(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  at::Tensor values = tensor.detach();
  if (values.is_sparse()) values = values._values();
  values = values.cpu().contiguous();
  const auto seed = static_cast<uint64_t>(values.scalar_type()) << 56;
  switch (values.element_size()) {
    case 1:
      return seed ^ hash_of<uint8_t>(values);
    case 2:
      return seed ^ hash_of<uint16_t>(values);
    case 4:
      return seed ^ hash_of<uint32_t>(values);
    case 8:
      return seed ^ hash_of<uint64_t>(values);
    default:  // complex<double>: its halves
      return seed ^ hash_of<uint64_t>(values.view(at::kDouble));
  }
}

}  // namespace mezzo::kernels
