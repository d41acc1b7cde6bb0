#include "mezzo/kernels/gelu/gelu.h"

#include <fmt/ranges.h>

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {

at::Tensor tanh_gelu(const at::Tensor& x) {
  if constexpr (kHasCuda) {
    if (cuda::takes(x)) return cuda::tanh_gelu(x);
  }
  return cpu::takes(x) ? cpu::tanh_gelu(x) : at::gelu(x, "tanh");
}

at::Tensor tanh_gelu_backward(const at::Tensor& grad, const at::Tensor& x, at::Tensor* again) {
  MEZZO_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(),
              "tanh_gelu_backward", "grad must be as x, [{}] of {}, but is [{}] of {}",
              fmt::join(x.sizes(), ", "), c10::toString(x.scalar_type()),
              fmt::join(grad.sizes(), ", "), c10::toString(grad.scalar_type()));
  if constexpr (kHasCuda) {
    if (cuda::takes(x)) return cuda::tanh_gelu_backward(grad, x, again);
  }
  if (cpu::takes(x)) return cpu::tanh_gelu_backward(grad, x, again);
  if (again != nullptr) *again = at::gelu(x, "tanh");
  return at::gelu_backward(grad, x, "tanh");
}

}  // namespace mezzo::kernels
