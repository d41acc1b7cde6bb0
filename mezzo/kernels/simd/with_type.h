#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// f(T{}), T the type of x's numbers, and true; or false where x is not on a CPU, or of a dtype
/// that no loop is written for: those are fp32, bf16 and fp16.
template <class F>
bool with_type(const at::Tensor& x, F&& f) {
  if (!x.is_cpu()) return false;
  if (x.scalar_type() == at::kFloat) return f(float{}), true;
  if (x.scalar_type() == at::kBFloat16) return f(c10::BFloat16{}), true;
  if (x.scalar_type() == at::kHalf) return f(c10::Half{}), true;
  return false;
}

namespace cpu {

/// Whether such loops take x.
inline bool takes(const at::Tensor& x) {
  return with_type(x, [](auto) {});
}

}  // namespace cpu
}  // namespace mezzo::kernels
