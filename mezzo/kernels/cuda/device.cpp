#include "mezzo/kernels/cuda/device.h"

#include <ATen/cuda/CUDAContextLight.h>

namespace mezzo::kernels::cuda {

Gpu gpu_of(c10::Device device) {
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
  return {.name = properties->name,
          .capability = 10 * properties->major + properties->minor,
          .multiprocessors = properties->multiProcessorCount,
          .memory_bytes = static_cast<int64_t>(properties->totalGlobalMem)};
}

}  // namespace mezzo::kernels::cuda
