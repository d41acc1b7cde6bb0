#pragma once

#include <cstring>
#include <type_traits>

#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/simd/numbers.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels::flash {

/// What a product takes of a tensor of T: fp16 is widened, for no kernel multiplies it well.
template <class T>
using Operand = std::conditional_t<std::is_same_v<T, c10::BFloat16>, c10::BFloat16, float>;

/// N elements, not initialised, aligned for vectors.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t N) : data_(c10::GetCPUAllocator()->allocate(N * sizeof(T))) {}
  T* get() const { return static_cast<T*>(data_.get()); }

 private:
  c10::DataPtr data_;
};

/// One head of a tensor [B, H, T, E] whose last dimension is contiguous: row t at data + t *
/// stride.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  T* at(int64_t t) const { return data + t * stride; }
};

template <class T>
Rows<T> rows_of(const at::Tensor& x, int64_t head) {
  const int64_t offset = head / x.size(1) * x.stride(0) + head % x.size(1) * x.stride(1);
  if constexpr (std::is_const_v<T>) {
    return {x.const_data_ptr<std::remove_const_t<T>>() + offset, x.stride(2)};
  } else {
    return {x.mutable_data_ptr<T>() + offset, x.stride(2)};
  }
}

inline at::Tensor with_dense_rows(const at::Tensor& x) {
  return x.stride(-1) == 1 ? x : x.contiguous();
}

/// work(T()) with T the type of the tensor's elements.
template <class Work>
void with_type_of(const at::Tensor& x, Work work) {
  MEZZO_INTERNAL_CHECK(with_type(x, work));
}

/// 32 bits: a float, or two bf16 that a product takes together.
using Word [[gnu::may_alias]] = uint32_t;

template <class P>
constexpr int64_t kInWord = sizeof(Word) / sizeof(P);

/// to [E] = from [E] * factor, rounded. A row a call: of fp16 in nested loops gcc makes no vectors.
template <class T>
MEZZO_INLINE void store_row(const float* from, float factor, int64_t E, T* __restrict to) {
  for (int64_t e = 0; e < E; ++e) to[e] = narrow<T>(from[e] * factor);
}

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
using Words [[gnu::vector_size(kBlock * sizeof(Word)), gnu::may_alias, gnu::aligned(4)]] = uint32_t;

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

/// to [N][M] = from [M][N], transposed; M and N multiples of kBlock.
MEZZO_INLINE void transpose(const Word* from, int64_t M, int64_t N, Word* to) {
  for (int64_t n = 0; n < N; n += kBlock) {
    for (int64_t m = 0; m < M; m += kBlock) {
      Words rows[kBlock];
      for (int64_t i = 0; i < kBlock; ++i)
        rows[i] = *reinterpret_cast<const Words*>(from + (m + i) * N + n);
      transpose_block(rows);
      for (int64_t i = 0; i < kBlock; ++i)
        *reinterpret_cast<Words*>(to + (n + i) * M + m) = rows[i];
    }
  }
}

MEZZO_INLINE void interleave(const c10::BFloat16* from, int64_t rows, int64_t E, Word* to) {
  for (int64_t r = 0; r < rows; r += 2) {
    const c10::BFloat16 *even = from + r * E, *odd = even + E;
    Word* pairs = to + r / 2 * E;
    for (int64_t e = 0; e < E; ++e) pairs[e] = even[e].x | static_cast<uint32_t>(odd[e].x) << 16;
  }
}

/// The rows of one Word, rounded, as a right operand takes them.
template <int64_t N>
MEZZO_INLINE void put_rows(const float (&rows)[1][N], float* to) {
  for (int64_t n = 0; n < N; ++n) to[n] = rows[0][n];
}

template <int64_t N>
MEZZO_INLINE void put_rows(const float (&rows)[2][N], c10::BFloat16* to) {
  Word* pairs = reinterpret_cast<Word*>(to);
  for (int64_t n = 0; n < N; ++n) {
    pairs[n] = bits_of_bf16(rows[0][n]) | bits_of_bf16(rows[1][n]) << 16;
  }
}

/// rows [R][E] as the right operand with K = R, N = E: `to`, or for float the rows themselves.
template <class P>
const P* right_operand(const P* rows, int64_t R, int64_t E, P* to) {
  if constexpr (std::is_same_v<P, float>) {
    return rows;
  } else {
    simd<interleave>(rows, R, E, reinterpret_cast<Word*>(to));
    return to;
  }
}

/// rows [R][E] as the right operand with K = E, N = R.
template <class P>
void pack_transposed_right(const P* rows, int64_t R, int64_t E, P* to) {
  simd<transpose>(reinterpret_cast<const Word*>(rows), R, E / kInWord<P>,
                  reinterpret_cast<Word*>(to));
}

/// rows as right_operand() made them, as the left operand with M = E, K = R.
template <class P>
void pack_transposed_left(const P* right, int64_t R, int64_t E, P* to) {
  simd<transpose>(reinterpret_cast<const Word*>(right), R / kInWord<P>, E,
                  reinterpret_cast<Word*>(to));
}

}  // namespace mezzo::kernels::flash
