#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/adamw/coefficients.h"

namespace mezzo::kernels {

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
  AdamWCoefficients coefficients;
};

/// What all parameters of a step share, where nobody may wait for the device to learn of it.
struct AdamWOnDevice {
  AdamWSettings settings;
  at::Tensor lr;          ///< 0-dim fp32, instead of settings.lr; or none
  at::Tensor grad_scale;  ///< 0-dim fp32, which the gradients are divided by; or none
  at::Tensor found_inf;   ///< 0-dim fp32: where it is not 0, nothing is changed; or none
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
/// On a CPU, and a GPU that the build has kernels for; elsewhere by reference::adamw_().
void adamw_(const std::vector<AdamWParam>& params);

namespace cuda {

/// Whether this GPU's tensors are stepped by its kernel (mezzo/kernels/cuda/flavour.h).
bool takes_adamw(const at::Tensor& weight);
/// kernels::adamw_() of parameters on one GPU, which have been checked.
void adamw_(const std::vector<AdamWParam>& params);

/// The same, with what `shared` says in place of each parameter's `coefficients`. steps: one of
/// each parameter, 0-dim fp32 on the device, this step counted already. The host reads nothing: a
/// graph can hold it. Throws Error for parameters that cannot be stepped. As the powers of the
/// betas are found on the device, a step may differ from adamw_() in the last bit of step_size and
/// root_correction.
void adamw_on_device_(const std::vector<AdamWParam>& params, const std::vector<at::Tensor>& steps,
                      const AdamWOnDevice& shared);

}  // namespace cuda

namespace reference {

/// The same as tensor code, on any device; on a CPU the same bits.
void adamw_(const AdamWParam& param);

}  // namespace reference

}  // namespace mezzo::kernels
