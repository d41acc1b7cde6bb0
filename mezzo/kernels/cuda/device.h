#pragma once

#include <string>

#include <c10/core/Device.h>

namespace mezzo::kernels::cuda {

struct Gpu {
  std::string name;
  int capability;  ///< 90 for 9.0
  int multiprocessors;
  int64_t memory_bytes;
};

Gpu gpu_of(c10::Device device);

}  // namespace mezzo::kernels::cuda
