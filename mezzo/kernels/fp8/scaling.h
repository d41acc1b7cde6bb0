#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "mezzo/base/float_format.h"

namespace mezzo::kernels {

// Note [FP8 scaling]
// FP8 has too few exponents to hold a tensor as it is: e4m3 reaches from 2^-9 to 448, e5m2 from
// 2^-16 to 57344. So each tensor has one scale, x = scale * values, chosen by its largest
// magnitude, amax, such that the values end just below the format's largest number (Micikevicius et
// al., "FP8 Formats for Deep Learning", arXiv 2209.05433, section 4):
//
//   scale = 2^ceil(log2(amax / (max / 2^margin)))
//
// It is a power of two: then neither x / scale nor scale * values rounds, and the error of a cast
// is that of the format and nothing else. What that costs is at most one binade at the small end,
// as a power of two falls up to a factor of two short of the quotient.
//
//   current   amax is that of the tensor itself: nothing saturates, for a pass over x that reads
//             it before the one that casts
//   delayed   amax is the largest of the last H casts' (NVIDIA's Transformer Engine, its recipe
//             DelayedScaling), which each cast measures on its way: one pass. A tensor that grows
//             by more than 2^margin and what the rounding of the scale left saturates, once.
//
// All of it stays on the device: nothing is read on the host, so that a CUDA graph can hold it.

/// kFp8E4M3 or kFp8E5M2, of Float8_e4m3fn or Float8_e5m2. Throws Error for any other type.
const FloatFormat& fp8_format(at::ScalarType dtype);

/// max / 2^margin: what amax is brought to, or below. Throws Error for a margin outside [0, 15].
double fp8_largest(at::ScalarType dtype, int64_t margin);

/// The scale for numbers up to `amax` in `dtype`, an FP8 type.
///   amax     [] fp32, of any device
///   margin   binades left free above amax
///   returns  [] fp32, a power of two in [2^-126, 2^126]; 1 where amax is 0, NaN or Inf, so that
///            what is not finite comes through the cast and is not multiplied away
at::Tensor fp8_scale(const at::Tensor& amax, at::ScalarType dtype, int64_t margin = 0);

/// max |x| as fp32 [], NaN where x holds one; 0 of nothing.
at::Tensor fp8_amax(const at::Tensor& x);

/// What delayed scaling knows of a tensor. Both tensors are changed in place, on their device, and
/// keep their addresses.
struct AmaxHistory {
  at::Tensor amaxes;  ///< [H] fp32, the latest first; 0 where there was none yet
  at::Tensor latest;  ///< [] fp32: the largest magnitude cast since the last next_fp8_scale()
};

/// H zeros; 1 <= H <= 1024, or Error is thrown.
AmaxHistory amax_history(int64_t H, at::Device device);

/// Moves `latest` into the history, which then forgets its oldest number, and makes it zero.
/// Returns fp8_scale() of the largest number there: a new tensor, so that a cast that is kept for a
/// backward pass keeps its own. A `latest` that is not finite is passed over: one bad step, which
/// loss scaling leaves out as well, does not widen the range for H steps.
at::Tensor next_fp8_scale(AmaxHistory& history, at::ScalarType dtype, int64_t margin = 0);

namespace cuda {

/// The same, each by one kernel (mezzo/kernels/cuda/flavour.h).
at::Tensor fp8_scale(const at::Tensor& amax, at::ScalarType dtype, int64_t margin = 0);
at::Tensor next_fp8_scale(AmaxHistory& history, at::ScalarType dtype, int64_t margin = 0);

}  // namespace cuda
}  // namespace mezzo::kernels
