#include "tests/close.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include <fmt/ranges.h>

#include <ATen/ATen.h>

namespace mezzo::testing {
namespace {

std::string shape_of(const at::Tensor& tensor) {
  return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()),
                     fmt::join(tensor.sizes(), ", "));
}

at::Tensor flat_fp64(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU, at::kDouble).contiguous();
}

std::string index_of(int64_t flat, at::IntArrayRef sizes) {
  std::vector<int64_t> index(sizes.size());
  for (auto d = std::ssize(sizes) - 1; d >= 0; --d) {
    index[d] = flat % sizes[d];
    flat /= sizes[d];
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

/// |a - e|, and infinite where no tolerance would excuse it. Equal infinities differ by nothing.
double difference(double a, double e) {
  const double diff = a == e ? 0.0 : std::abs(a - e);
  return std::isnan(diff) ? std::numeric_limits<double>::infinity() : diff;
}

}  // namespace

::testing::AssertionResult is_close(const at::Tensor& actual, const at::Tensor& expected,
                                    double tolerance) {
  if (!actual.defined() || !expected.defined()) {
    return ::testing::AssertionFailure() << "a tensor is undefined";
  }
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure()
           << "actual is " << shape_of(actual) << ", expected " << shape_of(expected);
  }
  const auto actual64 = flat_fp64(actual), expected64 = flat_fp64(expected);
  const double *a = actual64.const_data_ptr<double>(), *e = expected64.const_data_ptr<double>();
  int64_t worst = 0, failures = 0;
  for (int64_t i = 0; i < actual64.numel(); ++i) {
    const double diff = difference(a[i], e[i]);
    failures += !(diff <= tolerance);
    worst = diff > difference(a[worst], e[worst]) ? i : worst;
  }
  if (failures == 0) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << fmt::format(
             "{} of {} elements are not close; the worst at {}: actual {:.9g}, expected {:.9g}, "
             "difference {:.3g}, tolerance {:.3g}",
             failures, actual64.numel(), index_of(worst, expected.sizes()), a[worst], e[worst],
             difference(a[worst], e[worst]), tolerance);
}

::testing::AssertionResult is_within(const at::Tensor& got, const at::Tensor& exact,
                                     const at::Tensor& bound) {
  if (got.sizes() != exact.sizes()) return ::testing::AssertionFailure() << "shape " << got.sizes();
  const at::Tensor error = (got.to(at::kDouble) - exact).abs();
  const at::Tensor is_good = error <= bound;  // false for NaN
  if (is_good.all().item<bool>()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << (~is_good).sum().item<int64_t>() << " of " << got.numel()
                                       << " elements outside the bound, by up to "
                                       << (error / bound).max().item<double>() << " times";
}

::testing::AssertionResult is_bit_equal(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type()) {
    return ::testing::AssertionFailure()
           << "actual is " << shape_of(actual) << ", expected " << shape_of(expected);
  }
  const auto a = actual.detach().cpu().contiguous(), e = expected.detach().cpu().contiguous();
  if (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), e.const_data_ptr(), a.nbytes()) == 0) {
    return ::testing::AssertionSuccess();
  }
  const auto values = is_close(actual, expected, 0.0);
  return ::testing::AssertionFailure()
         << (values ? "equal values with other bits" : values.message());
}

double magnitude_of(const at::Tensor& tensor) {
  return tensor.detach().to(at::kDouble).abs().max().item<double>();
}

}  // namespace mezzo::testing
