// rotate.h on a GPU: tensors to addresses.

#include "mezzo/kernels/rope/cuda.h"

#include <ATen/ops/empty.h>

#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/rope/rotate.h"

namespace mezzo::kernels::cuda {

at::Tensor rotate_pairs(const at::Tensor& x_in, const at::Tensor& table_in, RopePairs pairs,
                        bool is_inverse) {
  const LaunchGuard launch(x_in);
  const at::Tensor x = with_dense_heads(x_in), table = aligned(table_in);
  at::Tensor y = at::empty(x.sizes(), x.options());
  launch_rope({.x = x.const_data_ptr(),
               .table = table.const_data_ptr<float>(),
               .y = y.mutable_data_ptr(),
               .shape = rope_shape(x),
               .direction = is_inverse ? -1.0f : 1.0f,
               .is_interleaved = pairs == RopePairs::kInterleaved,
               .dtype = dtype_of(x.scalar_type())},
              launch.stream());
  return y;
}

}  // namespace mezzo::kernels::cuda
