// swiglu.h on a GPU: tensors to addresses.

#include "mezzo/kernels/swiglu/cuda.h"

#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/swiglu/swiglu.h"

namespace mezzo::kernels::cuda {

at::Tensor swiglu(const at::Tensor& gate_up_in) {
  const LaunchGuard launch(gate_up_in);
  const at::Tensor gate_up = aligned(gate_up_in);
  std::vector<int64_t> sizes = gate_up.sizes().vec();
  const int64_t C = sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, gate_up.options());
  launch_swiglu(gate_up.const_data_ptr(), y.mutable_data_ptr(), C == 0 ? 0 : y.numel() / C, C,
                dtype_of(y.scalar_type()), launch.stream());
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& grad_in, const at::Tensor& gate_up_in,
                           at::Tensor* again) {
  const LaunchGuard launch(gate_up_in);
  const at::Tensor gate_up = aligned(gate_up_in), grad = aligned(grad_in);
  const int64_t C = grad.size(-1);
  at::Tensor grad_gate_up = at::empty_like(gate_up);
  if (again != nullptr) *again = at::empty_like(grad);
  launch_swiglu_backward(
      grad.const_data_ptr(), gate_up.const_data_ptr(), grad_gate_up.mutable_data_ptr(),
      again != nullptr ? again->mutable_data_ptr() : nullptr, C == 0 ? 0 : grad.numel() / C, C,
      dtype_of(grad.scalar_type()), launch.stream());
  return grad_gate_up;
}

}  // namespace mezzo::kernels::cuda
