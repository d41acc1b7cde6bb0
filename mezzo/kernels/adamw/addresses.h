#pragma once

#include <cstdint>

#include "mezzo/kernels/adamw/coefficients.h"

namespace mezzo::kernels {

/// An AdamWParam by its addresses; null for what is undefined. Without dtypes, whose header nvcc
/// takes seconds for.
struct AdamWAddresses {
  int64_t N;
  void* weight;
  int16_t* remainder;
  const void* grad;
  void* exp_avg;     // float, or int8_t where there is a scale
  void* exp_avg_sq;  // float, or uint8_t
  float* exp_avg_scale;
  float* exp_avg_sq_scale;
  AdamWCoefficients coefficients;
};

}  // namespace mezzo::kernels
