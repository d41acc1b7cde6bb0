#pragma once

#include <algorithm>
#include <type_traits>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/matmul/operands.h"

namespace mezzo::kernels::tiled {

// A matrix of any layout, part by part, as the micro-kernel's operands: tiled.cpp multiplies them.
// S: the type of its elements; P: what the micro-kernel takes, S itself or float.

constexpr int64_t kRows = 64;     // of a left operand
constexpr int64_t kColumns = 64;  // of a right one
constexpr int64_t kStrip = 32;    // of what is summed over, packed at a time

constexpr int64_t padded(int64_t k) { return ceil_div(k, kStrip) * kStrip; }

/// Element (i, j) at data + i * row + j * column, one of which is 1.
template <class T>
struct Matrix {
  const T* data;
  int64_t row, column;
  Matrix from(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};

template <class T>
Matrix<T> matrix_of(const at::Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1)};
}

template <class P>
struct Block {
  const P* data;
  int64_t stride;
};

/// [rows][E], whose rows lie `stride` apart, as a block [to_rows][to_E] of P: itself where it is
/// one, or a copy in `room`.
template <class S, class P>
Block<P> block_of(const S* from, int64_t stride, int64_t rows, int64_t E, int64_t to_rows,
                  int64_t to_E, P* room) {
  if constexpr (std::is_same_v<S, P>) {
    if (rows == to_rows && E == to_E) return {from, stride};
  }
  simd<brgemm::load<S, P>>(from, stride, rows, E, room, to_rows, to_E);
  return {room, to_E};
}

/// b [K, columns] as right operand of padded(K) x kColumns.
template <class S, class P>
void pack_right(Matrix<S> b, int64_t K, int64_t columns, P* to) {
  alignas(64) P room[kStrip * kColumns];
  for (int64_t k = 0; k < K; k += kStrip, to += kStrip * kColumns) {
    const int64_t count = std::min(kStrip, K - k);
    const S* from = b.from(k, 0).data;
    if (b.column == 1) {
      if constexpr (brgemm::kInWord<P> == 1) {
        simd<brgemm::load<S, P>>(from, b.row, count, columns, to, kStrip, kColumns);
      } else {
        const Block<P> rows = block_of(from, b.row, count, columns, kStrip, kColumns, room);
        simd<brgemm::interleave>(rows.data, rows.stride, kStrip, kColumns, to);
      }
    } else {
      const Block<P> rows = block_of(from, b.column, columns, count, kColumns, kStrip, room);
      simd<brgemm::transpose<P>>(rows.data, rows.stride, kColumns, kStrip / brgemm::kInWord<P>, to,
                                 kColumns * brgemm::kInWord<P>);
    }
  }
}

/// a [rows, K] as left operand of kRows x padded(K).
template <class S, class P>
void pack_left(Matrix<S> a, int64_t rows, int64_t K, P* to) {
  if (a.column == 1) {
    simd<brgemm::load<S, P>>(a.data, a.row, rows, K, to, kRows, padded(K));
    return;
  }
  alignas(64) P room[kStrip * kRows], pairs[kStrip * kRows];
  for (int64_t k = 0; k < K; k += kStrip) {
    const int64_t count = std::min(kStrip, K - k);
    Block<P> strip = block_of(a.from(0, k).data, a.column, count, rows, kStrip, kRows, room);
    if constexpr (brgemm::kInWord<P> == 2) {
      simd<brgemm::interleave>(strip.data, strip.stride, kStrip, kRows, pairs);
      strip = {pairs, kRows * brgemm::kInWord<P>};
    }
    simd<brgemm::transpose<P>>(strip.data, strip.stride, kStrip / brgemm::kInWord<P>, kRows, to + k,
                               padded(K));
  }
}

}  // namespace mezzo::kernels::tiled
