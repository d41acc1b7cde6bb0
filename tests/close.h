#pragma once

#include <string_view>

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>

namespace mezzo::testing {

/// Success if every |actual - expected| <= tolerance, compared in fp64. A NaN on either side, an
/// infinity against anything but itself, or another shape is a failure, which names the worst index
/// with both values. dtypes may differ; that they agree is not what this tests.
/// tolerance comes from tolerance_for() (mezzo/base/float_format.h), or is 0 for equal.
::testing::AssertionResult is_close(const at::Tensor& actual, const at::Tensor& expected,
                                    double tolerance);

/// Success if every |got - exact| <= bound, element by element, compared in fp64; a NaN is a
/// failure, and so is another shape.
::testing::AssertionResult is_within(const at::Tensor& got, const at::Tensor& exact,
                                     const at::Tensor& bound);

/// Success if shape, dtype and every bit agree: -0 differs from 0, and a NaN equals itself.
::testing::AssertionResult is_bit_equal(const at::Tensor& actual, const at::Tensor& expected);

/// The largest |element| of all, as a double.
double magnitude_of(const at::Tensor& tensor);

}  // namespace mezzo::testing

#define EXPECT_CLOSE(actual, expected, tolerance) \
  EXPECT_TRUE(::mezzo::testing::is_close(actual, expected, tolerance))
#define EXPECT_BIT_EQUAL(actual, expected) \
  EXPECT_TRUE(::mezzo::testing::is_bit_equal(actual, expected))
