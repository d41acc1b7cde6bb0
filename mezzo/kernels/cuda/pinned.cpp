#include "mezzo/kernels/cuda/pinned.h"

#include <algorithm>

#include <cuda_runtime_api.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "mezzo/base/check.h"

namespace mezzo::kernels::cuda {

at::Tensor pinned_like(const at::Tensor& x) {
  return at::empty(x.sizes(), at::TensorOptions(x.scalar_type()).pinned_memory(true));
}

at::Tensor pinned_to_keep(const at::Tensor& x) {
  void* memory = nullptr;
  const size_t bytes = std::max(x.nbytes(), size_t{1});
  if (const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
      status != cudaSuccess) {
    cudaGetLastError();  // or the next kernel's launch would be blamed
    detail::fail<Error>("pinned memory", "{} bytes of host memory cannot be had: {}", bytes,
                        cudaGetErrorString(status));
  }
  return at::from_blob(
      memory, x.sizes(), [](void* own) { cudaFreeHost(own); }, at::TensorOptions(x.scalar_type()));
}

}  // namespace mezzo::kernels::cuda
