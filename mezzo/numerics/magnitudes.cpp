#include "mezzo/numerics/magnitudes.h"

#include <algorithm>
#include <cmath>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/exponent_counts/exponent_counts.h"

namespace mezzo::numerics {

int64_t Magnitudes::zeros_in(const FloatFormat& format, double scale) const {
  return below(format.smallest_subnormal / 2 / scale);
}

int64_t Magnitudes::below(double limit) const {
  int64_t count = zeros;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (kFirstExponent + static_cast<int>(i) < std::ilogb(limit)) count += counts[i];
  }
  return count;
}

Magnitudes& Magnitudes::operator+=(const Magnitudes& other) {
  values += other.values;
  zeros += other.zeros;
  nonfinite += other.nonfinite;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  largest = std::max(largest, other.largest);
  sum_squares += other.sum_squares;
  return *this;
}

double Magnitudes::rms() const {
  const int64_t finite = values - nonfinite;
  return finite == 0 ? 0.0 : std::sqrt(sum_squares / static_cast<double>(finite));
}

Magnitudes magnitudes_of(const at::Tensor& tensor) {
  Magnitudes result;
  if (!tensor.defined()) return result;
  const kernels::ExponentCounts of = kernels::exponent_counts(tensor);
  result.values = tensor.numel();
  result.zeros = of.zeros;
  result.nonfinite = of.by_exponent.back();
  std::copy_n(of.by_exponent.begin(), result.counts.size(), result.counts.begin());
  result.counts[0] -= of.zeros;
  result.largest = of.largest;
  result.sum_squares = of.sum_squares;
  return result;
}

Magnitudes magnitudes_of(const std::vector<at::Tensor>& tensors) {
  Magnitudes sum;
  for (const at::Tensor& tensor : tensors) sum += magnitudes_of(tensor);
  return sum;
}

}  // namespace mezzo::numerics
