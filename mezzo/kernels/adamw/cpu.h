#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "mezzo/kernels/adamw/adamw.h"

namespace mezzo::kernels {

/// An AdamWParam by its addresses; null for what is undefined.
struct AdamWPointers {
  int64_t N;
  c10::ScalarType weight_dtype, grad_dtype;
  void* weight;
  int16_t* remainder;
  const void* grad;
  void* exp_avg;     // float, or int8_t where there is a scale
  void* exp_avg_sq;  // float, or uint8_t
  float* exp_avg_scale;
  float* exp_avg_sq_scale;
  AdamWNumbers numbers;
};

void adamw_cpu(const std::vector<AdamWPointers>& params);

}  // namespace mezzo::kernels
