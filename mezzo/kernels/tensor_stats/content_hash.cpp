#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/simd/simd.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kBlock = 4096;

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
  const int64_t blocks = ceil_div(N, kBlock);
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
