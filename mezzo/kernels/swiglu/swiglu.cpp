#include "mezzo/kernels/swiglu/swiglu.h"

#include <vector>

#include <fmt/ranges.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {
namespace {

/// Half a row of gate_up.
int64_t channels_of(const at::Tensor& gate_up) {
  MEZZO_CHECK(gate_up.dim() > 0 && gate_up.size(-1) % 2 == 0, "swiglu",
              "gate and up must be of one size, side by side, but the last size is {}",
              gate_up.dim() > 0 ? gate_up.size(-1) : 1);
  return gate_up.size(-1) / 2;
}

void check_gradient(const at::Tensor& grad, const at::Tensor& gate_up, int64_t C) {
  std::vector<int64_t> sizes = gate_up.sizes().vec();
  sizes.back() = C;
  MEZZO_CHECK(grad.sizes() == sizes && grad.scalar_type() == gate_up.scalar_type(),
              "swiglu_backward", "grad must be [{}] of {}, but is [{}] of {}",
              fmt::join(sizes, ", "), c10::toString(gate_up.scalar_type()),
              fmt::join(grad.sizes(), ", "), c10::toString(grad.scalar_type()));
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t C = channels_of(gate_up);
  if constexpr (kHasCuda) {
    if (cuda::takes(gate_up)) return cuda::swiglu(gate_up);
  }
  if (cpu::takes(gate_up)) return cpu::swiglu(gate_up);
  return at::silu(gate_up.narrow(-1, 0, C)) * gate_up.narrow(-1, C, C);
}

at::Tensor swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up, at::Tensor* again) {
  const int64_t C = channels_of(gate_up);
  check_gradient(grad, gate_up, C);
  if constexpr (kHasCuda) {
    if (cuda::takes(gate_up)) return cuda::swiglu_backward(grad, gate_up, again);
  }
  if (cpu::takes(gate_up)) return cpu::swiglu_backward(grad, gate_up, again);
  if (again != nullptr) *again = swiglu(gate_up);
  const at::Tensor gate = gate_up.narrow(-1, 0, C), up = gate_up.narrow(-1, C, C);
  return at::cat({at::silu_backward(grad * up, gate), grad * at::silu(gate)}, -1);
}

}  // namespace mezzo::kernels
