// mezzo/kernels/cuda/pinned.h on the CPU: any memory will do.

#include "mezzo/kernels/cuda/pinned.h"

#include <ATen/ops/empty.h>

namespace mezzo::kernels::cuda {

at::Tensor pinned_like(const at::Tensor& x) { return at::empty(x.sizes(), x.scalar_type()); }

}  // namespace mezzo::kernels::cuda
