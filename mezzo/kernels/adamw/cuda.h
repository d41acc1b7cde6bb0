#pragma once

#include <cstdint>

#include "mezzo/kernels/adamw/addresses.h"
#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

/// An AdamWParam on a GPU.
struct AdamWTensor : AdamWAddresses {
  DType weight_dtype, grad_dtype;
  bool is_aligned;    // all at multiples of 16 bytes
  const float* step;  // of the parameter, this one counted; null: `coefficients` says all
};

/// AdamWOnDevice by its addresses; null for what is not there.
struct AdamWShared {
  AdamWSettings settings;
  const float* lr;
  const float* grad_scale;
  const float* found_inf;
};

/// Any number of tensors.
void launch_adamw(const AdamWTensor* tensors, int64_t count, const AdamWShared& shared,
                  void* stream);

}  // namespace mezzo::kernels::cuda
