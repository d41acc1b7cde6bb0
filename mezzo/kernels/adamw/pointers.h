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

/// Of a parameter that check_adamw() let pass.
AdamWPointers adamw_pointers(const AdamWParam& param);

/// Throws Error, naming what does not fit, for parameters that adamw_() cannot step.
void check_adamw(const std::vector<AdamWParam>& params);

void adamw_cpu(const std::vector<AdamWPointers>& params);

}  // namespace mezzo::kernels
