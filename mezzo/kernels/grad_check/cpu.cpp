#include "mezzo/kernels/grad_check/cpu.h"

#include <algorithm>
#include <type_traits>

#include <immintrin.h>  // fp16's conversions

#include "mezzo/kernels/blocks.h"
#include "mezzo/kernels/simd/bits.h"

namespace mezzo::kernels {
namespace {

// What a thread reads, and then multiplies out of its L1 cache. Counts of it fit into 16 bits.
constexpr int64_t kBlock = 4096;

template <class T>
MEZZO_INLINE T product(const T& x, float factor) {
  if constexpr (std::is_same_v<T, double>) {
    return x * static_cast<double>(factor);
  } else {
    return narrow<T>(wide(x) * factor);
  }
}

/// What a block holds. Counts are as wide as a number, so that vectors of both have as many lanes.
template <class T>
struct Seen {
  BitsOf<T> zeros, small, largest;
  bool is_finite;
};

// Added to a magnitude, it moves Inf and all NaNs to where the sign bit is set: negative, they lose
// against every number when the largest is sought.
template <class T>
constexpr BitsOf<T> kToSign = static_cast<BitsOf<T>>(kSign<T> - kInf<T>);

/// small: those of a magnitude below the number with the bits `normal`, zeros among them. Read and
/// multiplied in one loop: a second one over the same block costs a tenth more.
template <bool kMultiplies, class T>
MEZZO_INLINE Seen<T> pass(T* x, int64_t N, float inv_scale, BitsOf<T> normal) {
  using Bits = BitsOf<T>;
  using Signed = std::make_signed_t<Bits>;
  Bits zeros = 0, small = 0, signs = 0;
  auto largest = static_cast<Signed>(kToSign<T>);
#pragma omp simd reduction(+ : zeros, small) reduction(| : signs) reduction(max : largest)
  for (int64_t i = 0; i < N; ++i) {
    const Bits magnitude = bits_of(x[i]) & static_cast<Bits>(~kSign<T>);
    zeros += magnitude == 0 ? 1 : 0;
    small += magnitude < normal ? 1 : 0;
    const Bits moved = magnitude + kToSign<T>;
    signs |= moved;
    largest = largest < static_cast<Signed>(moved) ? static_cast<Signed>(moved) : largest;
    if constexpr (kMultiplies) x[i] = product(x[i], inv_scale);
  }
  return {zeros, small, static_cast<Bits>(static_cast<Bits>(largest) - kToSign<T>),
          (signs & kSign<T>) == 0};
}

/// How many are NaN, Inf and -Inf. A factor between 0 and 1 leaves them what they are.
template <class T>
MEZZO_INLINE void count_bad(const T* x, int64_t N, TensorStats* facts) {
  for (int64_t i = 0; i < N; ++i) {
    const BitsOf<T> bits = bits_of(x[i]);
    facts->nan += static_cast<BitsOf<T>>(bits & ~kSign<T>) > kInf<T> ? 1 : 0;
    facts->positive_inf += bits == kInf<T> ? 1 : 0;
    facts->negative_inf += bits == (kInf<T> | kSign<T>) ? 1 : 0;
  }
}

// By the unit's own conversions: of those in numbers.h the vectors take four times as long.
__attribute__((target("avx,f16c"))) void multiply_f16c(c10::Half* x, int64_t N, float factor) {
  const __m256 factors = _mm256_set1_ps(factor);
  const int64_t whole = N - N % 8;
  for (int64_t i = 0; i < whole; i += 8) {
    auto* here = reinterpret_cast<__m128i*>(x + i);
    const __m256 products = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(here)), factors);
    _mm_storeu_si128(here, _mm256_cvtps_ph(products, _MM_FROUND_TO_NEAREST_INT));
  }
  for (int64_t i = whole; i < N; ++i) x[i] = product(x[i], factor);
}

template <class T>
MEZZO_INLINE void multiply_plain(T* x, int64_t N, float factor) {
  for (int64_t i = 0; i < N; ++i) x[i] = product(x[i], factor);
}

template <class T>
void multiply(T* x, int64_t N, float factor) {
  if constexpr (std::is_same_v<T, c10::Half>) {
    if (instruction_set() != InstructionSet::kBaseline) return multiply_f16c(x, N, factor);
  }
  simd<multiply_plain<T>>(x, N, factor);
}

/// The bits of the smallest number of T that is not below x > 0.
template <class T>
BitsOf<T> bits_from(double x) {
  const auto nearest = [&] {
    if constexpr (std::is_same_v<T, double>) {
      return x;
    } else {
      return narrow<T>(static_cast<float>(x));
    }
  }();
  const BitsOf<T> bits = bits_of<T>(nearest);
  return value_of<T>(bits) < x ? static_cast<BitsOf<T>>(bits + 1) : bits;
}

template <class T>
TensorStats pass_block(void* grad, int64_t begin, int64_t N, float inv_scale, double normal) {
  T* x = static_cast<T*>(grad) + begin;
  const BitsOf<T> normal_bits = bits_from<T>(normal);
  // A factor between 0 and 1 keeps NaN, Inf and -Inf apart.
  const bool is_one_pass = !std::is_same_v<T, c10::Half> && inv_scale > 0.0f && inv_scale < 1.0f;
  const Seen<T> seen = is_one_pass ? simd<pass<true, T>>(x, N, inv_scale, normal_bits)
                                   : simd<pass<false, T>>(x, N, inv_scale, normal_bits);
  TensorStats facts;
  facts.numel = N;
  facts.zeros = static_cast<int64_t>(seen.zeros);
  facts.subnormals = static_cast<int64_t>(seen.small - seen.zeros);
  facts.largest = value_of<T>(seen.largest);
  if (!seen.is_finite) simd<count_bad<T>>(static_cast<const T*>(x), N, &facts);
  if (!is_one_pass && inv_scale != 1.0f) multiply(x, N, inv_scale);
  return facts;
}

TensorStats pass_block(const at::Tensor& grad, void* data, int64_t begin, float inv_scale,
                       double normal) {
  const int64_t N = std::min(kBlock, grad.numel() - begin);
  switch (grad.scalar_type()) {
    case at::kBFloat16:
      return pass_block<c10::BFloat16>(data, begin, N, inv_scale, normal);
    case at::kHalf:
      return pass_block<c10::Half>(data, begin, N, inv_scale, normal);
    case at::kDouble:
      return pass_block<double>(data, begin, N, inv_scale, normal);
    default:
      return pass_block<float>(data, begin, N, inv_scale, normal);
  }
}

void add(TensorStats& sum, const TensorStats& part) {
  sum.numel += part.numel;
  sum.nan += part.nan;
  sum.positive_inf += part.positive_inf;
  sum.negative_inf += part.negative_inf;
  sum.zeros += part.zeros;
  sum.subnormals += part.subnormals;
  sum.largest = std::max(sum.largest, part.largest);
}

}  // namespace

std::vector<TensorStats> cpu::check_and_unscale_(const std::vector<at::Tensor>& grads,
                                                 float inv_scale, double smallest_normal) {
  Blocks parts(kBlock);
  std::vector<void*> data;
  for (const at::Tensor& grad : grads) {
    parts.add(grad.numel());
    data.push_back(grad.mutable_data_ptr());
    if (inv_scale != 1.0f) grad.unsafeGetTensorImpl()->bump_version();
  }
  std::vector<TensorStats> blocks(static_cast<size_t>(parts.count()));
  parts.share_out([&](size_t i, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      blocks[static_cast<size_t>(block)] = pass_block(
          grads[i], data[i], (block - parts.first(i)) * kBlock, inv_scale, smallest_normal);
  });
  std::vector<TensorStats> facts(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    for (int64_t block = parts.first(i); block < parts.first(i + 1); ++block)
      add(facts[i], blocks[static_cast<size_t>(block)]);
  }
  return facts;
}

}  // namespace mezzo::kernels
