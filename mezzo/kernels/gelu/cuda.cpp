// gelu.h on a GPU: tensors to addresses.

#include "mezzo/kernels/gelu/cuda.h"

#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/gelu/gelu.h"

namespace mezzo::kernels::cuda {

at::Tensor tanh_gelu(const at::Tensor& x_in) {
  const LaunchGuard launch(x_in);
  const at::Tensor x = aligned(x_in);
  at::Tensor y = at::empty_like(x);
  launch_gelu(x.const_data_ptr(), y.mutable_data_ptr(), x.numel(), dtype_of(x.scalar_type()),
              launch.stream());
  return y;
}

at::Tensor tanh_gelu_backward(const at::Tensor& grad_in, const at::Tensor& x_in,
                              at::Tensor* again) {
  const LaunchGuard launch(x_in);
  const at::Tensor x = aligned(x_in), grad = aligned(grad_in);
  at::Tensor grad_x = at::empty_like(x);
  if (again != nullptr) *again = at::empty_like(x);
  launch_gelu_backward(grad.const_data_ptr(), x.const_data_ptr(), grad_x.mutable_data_ptr(),
                       again != nullptr ? again->mutable_data_ptr() : nullptr, x.numel(),
                       dtype_of(x.scalar_type()), launch.stream());
  return grad_x;
}

}  // namespace mezzo::kernels::cuda
