#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// What one step of AdamW does with each number of a parameter. Found in fp64, rounded once to
/// fp32, as in at::_fused_adamw_.
struct AdamWNumbers {
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

AdamWNumbers adamw_numbers(const AdamWSettings& settings, uint32_t step, float grad_scale = 1.0f);

/// How many scales the 8-bit moments of N numbers have.
int64_t moment_blocks(int64_t N);

/// A parameter of N elements and what belongs to it: dense in memory, and laid out alike.
struct AdamWParam {
  at::Tensor weight;            ///< fp32, bf16 or fp16
  at::Tensor remainder;         ///< int16: with the bf16 weight an fp32 number (split.h); or none
  at::Tensor grad;              ///< fp32, bf16 or fp16, whatever the weight is
  at::Tensor exp_avg;           ///< fp32, or int8 (moment8.h)
  at::Tensor exp_avg_sq;        ///< fp32, or uint8
  at::Tensor exp_avg_scale;     ///< fp32 [ceil(N / 128)] beside int8; or none
  at::Tensor exp_avg_sq_scale;  ///< likewise
  AdamWNumbers numbers;
};

/// One step of AdamW (Loshchilov and Hutter, ICLR 2019), in place, over all of the parameters in
/// one pass over their memory:
///
///   g = grad / grad_scale                      w = w * decay
///   m = m + (1 - beta1) (g - m)                v = beta2 v + (1 - beta2) g^2
///   w = w - step_size * m / (sqrt(v) / root_correction + eps)
///
/// in fp32, in at::_fused_adamw_'s order; m and v are rounded to 8 bits after w has used them. The
/// result has the same bits for any number of threads and any instruction set: on fp32 tensors
/// those of at::_fused_adamw_'s AVX2 and AVX512 loops. (Its scalar rests, whose place depends on
/// the number of threads, and its baseline round otherwise: one ULP of m and v in a step.) The
/// gradient is left as it is. Zero elements are fine. NaN and Inf pass into weight and moments.
///
/// On a CPU; elsewhere by adamw_reference_().
void adamw_(const std::vector<AdamWParam>& params);

/// The same as tensor code, on any device; the same bits.
void adamw_reference_(const AdamWParam& param);

}  // namespace mezzo::kernels
