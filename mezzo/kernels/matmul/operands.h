#pragma once

#include <cstring>
#include <type_traits>

#include <c10/core/CPUAllocator.h>

#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels::brgemm {

// How the operands of the micro-kernel (brgemm.h) are laid out. Loops here are for simd<>().

/// N elements, not initialised, aligned for vectors.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t N) : data_(c10::GetCPUAllocator()->allocate(N * sizeof(T))) {}
  T* get() const { return static_cast<T*>(data_.get()); }

 private:
  c10::DataPtr data_;
};

/// 32 bits: a float, or two bf16 that a product takes together.
using Word [[gnu::may_alias]] = uint32_t;

template <class P>
constexpr int64_t kInWord = sizeof(Word) / sizeof(P);

/// to [to_rows][to_E], dense, zero beyond [rows][E].
template <class T, class P>
MEZZO_INLINE void load(const T* from, int64_t stride, int64_t rows, int64_t E, P* to,
                       int64_t to_rows, int64_t to_E) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = from + r * stride;
    P* __restrict to_row = to + r * to_E;
    if constexpr (std::is_same_v<T, P>) {
      std::memcpy(to_row, row, E * sizeof(T));
    } else {
      for (int64_t e = 0; e < E; ++e) to_row[e] = wide(row[e]);
    }
    for (int64_t e = E; e < to_E; ++e) to_row[e] = P(0);
  }
  for (int64_t i = rows * to_E; i < to_rows * to_E; ++i) to[i] = P(0);
}

constexpr int64_t kBlock = 8;
using Words [[gnu::vector_size(kBlock * sizeof(Word)), gnu::may_alias, gnu::aligned(2)]] = uint32_t;

/// Eight rows of eight, transposed: halves, then quarters, then neighbours change sides.
MEZZO_INLINE void transpose_block(Words (&rows)[kBlock]) {
  for (int i = 0; i < 4; ++i) {
    const Words a = rows[i], b = rows[i + 4];
    rows[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    rows[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (const int i : {0, 1, 4, 5}) {
    const Words a = rows[i], b = rows[i + 2];
    rows[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    rows[i + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 8; i += 2) {
    const Words a = rows[i], b = rows[i + 1];
    rows[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    rows[i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

/// to [N][M] = from [M][N], transposed, in words; M and N multiples of kBlock. Strides count
/// elements, of which a word holds kInWord<P>.
template <class P>
MEZZO_INLINE void transpose(const P* from, int64_t stride, int64_t M, int64_t N, P* to,
                            int64_t to_stride) {
  for (int64_t n = 0; n < N; n += kBlock) {
    for (int64_t m = 0; m < M; m += kBlock) {
      Words rows[kBlock];
      for (int64_t i = 0; i < kBlock; ++i)
        rows[i] = *reinterpret_cast<const Words*>(from + (m + i) * stride + n * kInWord<P>);
      transpose_block(rows);
      for (int64_t i = 0; i < kBlock; ++i)
        *reinterpret_cast<Words*>(to + (n + i) * to_stride + m * kInWord<P>) = rows[i];
    }
  }
}

/// Rows [rows][E] two by two as pairs [rows / 2][E], dense; rows even.
MEZZO_INLINE void interleave(const c10::BFloat16* from, int64_t stride, int64_t rows, int64_t E,
                             c10::BFloat16* to) {
  for (int64_t r = 0; r < rows; r += 2) {
    const c10::BFloat16 *even = from + r * stride, *odd = even + stride;
    Word* pairs = reinterpret_cast<Word*>(to + r * E);
    for (int64_t e = 0; e < E; ++e) pairs[e] = even[e].x | static_cast<uint32_t>(odd[e].x) << 16;
  }
}

}  // namespace mezzo::kernels::brgemm
