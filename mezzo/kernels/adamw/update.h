#pragma once

#include <cmath>

#include "mezzo/kernels/adamw/coefficients.h"
#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

// AdamW's step of one number. To be compiled without contraction of products and sums, so that the
// CPU's loops and a GPU's give the same bits. The numbers are passed by value: a store into a
// weight could change what a reference reads.

MEZZO_INLINE float next_exp_avg(float m, float g, AdamWCoefficients a) {
  // at::lerp's two forms, exact at both ends.
  const bool is_near_m = a.beta1_rest < 0.5f;
  return std::fma(is_near_m ? a.beta1_rest : a.beta1_rest - 1.0f, g - m, is_near_m ? m : g);
}

MEZZO_INLINE float next_exp_avg_sq(float v, float g, AdamWCoefficients a) {
  return std::fma(a.beta2_rest * g, g, v * a.beta2);
}

MEZZO_INLINE float next_weight(float w, float m, float sqrt_v, AdamWCoefficients a) {
  return w * a.decay + -a.step_size * m / (sqrt_v / a.root_correction + a.eps);
}

}  // namespace mezzo::kernels
