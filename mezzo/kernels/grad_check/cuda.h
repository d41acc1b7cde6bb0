#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

struct Gradient {
  void* values;
  int64_t N;
  DType dtype;
  bool is_aligned;  // at a multiple of 16 bytes
};

/// TensorStats as the device counts them; to be zero before.
struct DeviceFacts {
  unsigned long long nan, positive_inf, negative_inf, zeros, subnormals;
  unsigned long long largest_bits;  // of the largest finite magnitude, as fp32
};

/// What is done with each number; null for what is not there, or not wanted.
struct CheckOptions {
  const float* inv_scale;  // multiplied in, instead of `factor`
  float factor;
  float* found_inf;    // set to 1 where a number is not finite
  DeviceFacts* facts;  // one a gradient
  float smallest_normal;
  const float* norm;  // where this is finite nothing is done
};

void launch_check_and_unscale(const Gradient* gradients, int64_t count, const CheckOptions& options,
                              void* stream);

}  // namespace mezzo::kernels::cuda
