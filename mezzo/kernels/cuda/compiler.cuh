#pragma once

// What kernels take from nvcc beyond C++. They are launched by launch(), not by <<<>>>, so that the
// tests can compile the same sources for the CPU (tests/emulated_gpu/) and run them without a GPU.

#ifdef MEZZO_EMULATED_GPU
#include "tests/emulated_gpu/gpu.h"
#else

#include "mezzo/kernels/cuda/launch.h"

namespace mezzo::kernels::cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
            const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error != cudaSuccess) launch_failed(cudaGetErrorString(error));
}

/// Blocks of so many threads that a multiprocessor of the current GPU runs at once.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads) {
  int blocks = 0;
  const cudaError_t error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0);
  if (error != cudaSuccess) launch_failed(cudaGetErrorString(error));
  return blocks;
}

}  // namespace mezzo::kernels::cuda
#endif
