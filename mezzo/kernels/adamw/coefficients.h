#pragma once

#include <cmath>
#include <cstdint>

#include "mezzo/kernels/simd/simd.h"

namespace mezzo::kernels {

/// What one step of AdamW does with each number of a parameter. Found in fp64, rounded once to
/// fp32, as in at::_fused_adamw_.
struct AdamWCoefficients {
  float grad_scale;       ///< the gradient is divided by it
  float decay;            ///< 1 - lr * weight_decay
  float beta1_rest;       ///< 1 - beta1
  float beta2;            //
  float beta2_rest;       ///< 1 - beta2
  float step_size;        ///< lr / (1 - beta1^step)
  float root_correction;  ///< sqrt(1 - beta2^step)
  float eps;
  uint32_t step;  ///< counted from 1
};

struct AdamWSettings {
  double lr, beta1, beta2, eps, weight_decay;
};

/// Found in fp64 and rounded once to fp32, as in at::_fused_adamw_. step: counted from 1.
MEZZO_INLINE AdamWCoefficients adamw_coefficients(const AdamWSettings& s, uint32_t step,
                                                  float grad_scale = 1.0f) {
  return {
      .grad_scale = grad_scale,
      .decay = static_cast<float>(1 - s.lr * s.weight_decay),
      .beta1_rest = static_cast<float>(1 - s.beta1),
      .beta2 = static_cast<float>(s.beta2),
      .beta2_rest = static_cast<float>(1 - s.beta2),
      .step_size = static_cast<float>(s.lr / (1 - std::pow(s.beta1, static_cast<double>(step)))),
      .root_correction =
          static_cast<float>(std::sqrt(1 - std::pow(s.beta2, static_cast<double>(step)))),
      .eps = static_cast<float>(s.eps),
      .step = step};
}

}  // namespace mezzo::kernels
