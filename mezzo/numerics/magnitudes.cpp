#include "mezzo/numerics/magnitudes.h"

#include <cmath>

#include <ATen/ops/bincount.h>

#include "mezzo/base/float_format.h"

namespace mezzo::numerics {
namespace {

constexpr int64_t kExponentBits = 256;  // of an fp32: 0 is zero or subnormal, 255 Inf or NaN

Magnitudes magnitudes_of(const at::Tensor& tensor) {
  Magnitudes result;
  result.values = tensor.numel();
  const at::Tensor numbers = tensor.detach().to(at::kFloat).contiguous().view(-1);
  const at::Tensor exponents =
      numbers.view(at::kInt).bitwise_and(0x7fffffff).bitwise_right_shift(23);
  const at::Tensor counts =
      at::bincount(exponents, /*weights=*/{}, /*minlength=*/kExponentBits).to(at::kCPU);
  const int64_t* count = counts.const_data_ptr<int64_t>();
  result.zeros = tensor.numel() - numbers.count_nonzero().item<int64_t>();
  std::copy(count, count + result.counts.size(), result.counts.begin());
  result.counts[0] -= result.zeros;
  result.nonfinite = count[kExponentBits - 1];
  return result;
}

}  // namespace

int64_t Magnitudes::zeros_in(const FloatFormat& format, double scale) const {
  // |x| * scale < smallest / 2, in whole powers of two.
  const int limit = std::ilogb(format.smallest_subnormal) - 1 - std::ilogb(scale);
  int64_t lost = zeros;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (kFirstExponent + static_cast<int>(i) < limit) lost += counts[i];
  }
  return lost;
}

Magnitudes& Magnitudes::operator+=(const Magnitudes& other) {
  values += other.values;
  zeros += other.zeros;
  nonfinite += other.nonfinite;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  return *this;
}

Magnitudes magnitudes_of(const std::vector<at::Tensor>& tensors) {
  Magnitudes sum;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined() && tensor.numel() > 0) sum += magnitudes_of(tensor);
  }
  return sum;
}

}  // namespace mezzo::numerics
