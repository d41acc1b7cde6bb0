#pragma once

#include <bit>
#include <type_traits>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/matmul/operands.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels::flash {

using brgemm::Buffer;
using brgemm::kInWord;
using brgemm::load;
using brgemm::Word;

/// What a product takes of a tensor of T: fp16 is widened, for no kernel multiplies it well.
template <class T>
using Operand = std::conditional_t<std::is_same_v<T, c10::BFloat16>, c10::BFloat16, float>;

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

/// A new tensor of x's size with dense rows, laid out as x where x has an element in each place.
inline at::Tensor empty_rows_like(const at::Tensor& x) {
  const at::Tensor like = at::empty_like(with_dense_rows(x));
  return like.stride(-1) == 1 ? like : at::empty_like(x, at::MemoryFormat::Contiguous);
}

/// work(T()) with T the type of the tensor's elements.
template <class Work>
void with_type_of(const at::Tensor& x, Work work) {
  MEZZO_INTERNAL_CHECK(with_type(x, work));
}

/// to [E] = from [E] * factor, rounded. A row a call: of fp16 in nested loops gcc makes no vectors.
template <class T>
MEZZO_INLINE void store_row(const float* from, float factor, int64_t E, T* __restrict to) {
  for (int64_t e = 0; e < E; ++e) to[e] = narrow<T>(from[e] * factor);
}

/// The bits of the bf16 nearest to x in the upper half, of two the greater one. A NaN stays one if
/// its lower half is 0, as that of every NaN which comes of bf16 numbers is.
MEZZO_INLINE uint32_t nearest_bf16(float x) { return std::bit_cast<uint32_t>(x) + 0x8000u; }

/// A row, rounded, as a left operand takes it.
template <int64_t N>
MEZZO_INLINE void put_row(const float (&row)[N], float* to) {
  for (int64_t n = 0; n < N; ++n) to[n] = row[n];
}

template <int64_t N>
MEZZO_INLINE void put_row(const float (&row)[N], c10::BFloat16* to) {
  for (int64_t n = 0; n < N; ++n) to[n].x = static_cast<uint16_t>(nearest_bf16(row[n]) >> 16);
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
    pairs[n] = nearest_bf16(rows[0][n]) >> 16 | (nearest_bf16(rows[1][n]) & 0xffff0000u);
  }
}

/// rows [R][E] as the right operand with K = R, N = E: `to`, or for float the rows themselves.
template <class P>
const P* right_operand(const P* rows, int64_t R, int64_t E, P* to) {
  if constexpr (std::is_same_v<P, float>) {
    return rows;
  } else {
    simd<brgemm::interleave>(rows, E, R, E, to);
    return to;
  }
}

/// rows [R][E] as the right operand with K = E, N = R.
template <class P>
void pack_transposed_right(const P* rows, int64_t R, int64_t E, P* to) {
  simd<brgemm::transpose<P>>(rows, E, R, E / kInWord<P>, to, R * kInWord<P>);
}

/// rows as right_operand() made them, as the left operand with M = E, K = R.
template <class P>
void pack_transposed_left(const P* right, int64_t R, int64_t E, P* to) {
  simd<brgemm::transpose<P>>(right, E * kInWord<P>, R / kInWord<P>, E, to, R);
}

}  // namespace mezzo::kernels::flash
