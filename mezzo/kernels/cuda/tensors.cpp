#include "mezzo/kernels/cuda/tensors.h"

namespace mezzo::kernels::cuda {

bool is_kernel_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

bool takes(const at::Tensor& x) { return x.is_cuda() && is_kernel_dtype(x.scalar_type()); }

DType dtype_of(at::ScalarType dtype) {
  if (dtype == at::kFloat) return DType::kFloat;
  return dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kHalf;
}

at::Tensor aligned(const at::Tensor& x) {
  const at::Tensor dense = x.contiguous();
  const bool is_aligned = reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0;
  return is_aligned ? dense : dense.clone();
}

}  // namespace mezzo::kernels::cuda
