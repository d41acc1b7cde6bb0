#pragma once

#include <cstdint>

#include "mezzo/kernels/adamw/numbers.h"
#include "mezzo/kernels/cuda/number.h"

namespace mezzo::kernels::cuda {

/// An AdamWParam by its addresses, on a GPU; null for what is undefined.
struct AdamWTensor {
  int64_t N;
  void* weight;
  int16_t* remainder;
  const void* grad;
  void* exp_avg;     // float, or int8_t where there is a scale
  void* exp_avg_sq;  // float, or uint8_t
  float* exp_avg_scale;
  float* exp_avg_sq_scale;
  const float* step;  // of the parameter, this one counted; null: `numbers` says all
  Number weight_number, grad_number;
  bool is_aligned;  // all at multiples of 16 bytes
  AdamWNumbers numbers;
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
