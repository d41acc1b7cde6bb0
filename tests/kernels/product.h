#pragma once

#include <string>
#include <tuple>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "tests/close.h"

namespace mezzo::kernels::product {

inline constexpr double kUnitRoundoffFp32 = 0x1p-24;
inline constexpr double kUnitRoundoffFp16 = 0x1p-11;
inline constexpr double kUnitRoundoffBf16 = 0x1p-8;

// The bound that matmul.h promises, per element, given the exact product and the product of
// magnitudes.
inline at::Tensor error_bound(const at::Tensor& exact, const at::Tensor& magnitude, int64_t k,
                              at::ScalarType dtype) {
  at::Tensor bound = magnitude * ((k + 2) * kUnitRoundoffFp32);
  if (dtype == at::kHalf)
    bound = bound + (exact.abs() + bound) * kUnitRoundoffFp16 + 0x1p-25;  // and subnormals
  if (dtype == at::kBFloat16) bound = bound + (exact.abs() + bound) * kUnitRoundoffBf16;
  return bound;
}

inline ::testing::AssertionResult is_product(const at::Tensor& got, const at::Tensor& a,
                                             const at::Tensor& b) {
  const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble);
  const at::Tensor exact = at::matmul(wide_a, wide_b);
  const at::Tensor magnitude = at::matmul(wide_a.abs(), wide_b.abs());
  if (got.scalar_type() != a.scalar_type())
    return ::testing::AssertionFailure() << "dtype " << got.dtype();
  return mezzo::testing::is_within(got, exact,
                                   error_bound(exact, magnitude, a.size(-1), a.scalar_type()));
}

/// M, N, K.
using Shape = std::tuple<int64_t, int64_t, int64_t>;
using Case = std::tuple<Shape, at::ScalarType>;

inline std::string case_name(const ::testing::TestParamInfo<Case>& param) {
  const auto& [shape, dtype] = param.param;
  const auto [m, n, k] = shape;
  return fmt::format("{}x{}x{}_{}", m, n, k, c10::toString(dtype));
}

// The same numbers, laid out as a transposed view.
inline at::Tensor transposed(const at::Tensor& x) {
  return x.transpose(-1, -2).contiguous().transpose(-1, -2);
}

}  // namespace mezzo::kernels::product
