#pragma once

#include <ATen/ops/empty.h>

namespace mezzo::kernels {

/// Room for one fp32 number of each row of x.
inline at::Tensor statistics_like(const at::Tensor& x) {
  return at::empty(x.sizes().slice(0, static_cast<size_t>(x.dim() - 1)),
                   x.options().dtype(at::kFloat));
}

}  // namespace mezzo::kernels
