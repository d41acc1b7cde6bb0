#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo::optim {

/// Multiplies all gradients by min(max_norm / (norm + 1e-6), 1), where norm is the Euclidean norm
/// of them all together; returns that norm, before clipping.
///   params    any shapes, dtypes and devices; those without a gradient count for nothing, one
///             that is listed twice (a shared module's in Module::parameters()) counts once
///   max_norm  > 0; infinity measures without clipping
///   returns   0-dim, fp32 (fp64 if a gradient is, or complex of fp64), on the first gradient's
///             device; zero if there is none
/// 16-bit gradients are squared and summed in fp32; of complex ones it is the absolute value. A
/// norm that is not finite passes into the gradients, as NaN or zero, as
/// torch.nn.utils.clip_grad_norm_ has it: check with the scaler. Does not wait for a GPU, unless
/// some gradients are on a CPU and others are not. Throws Error for another max_norm.
at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& params, double max_norm);

/// Its second half: the same multiplication, with a norm that is known.
void clip_to_norm_(const std::vector<at::Tensor>& params, const at::Tensor& norm, double max_norm);

/// The Euclidean norm of all gradients together, in one pass that only reads.
///   params   any shapes; gradients fp32, bf16 or fp16, mixed; those without one count for nothing,
///            one that is listed twice counts once
///   returns  0-dim fp32, on the first gradient's device; zero if there is none
/// It is not finite if and only if a gradient is not, or the norm is beyond fp32: one pass is the
/// check for overflow and the clipping norm. Squares are summed in fp64: relative error below 1e-7,
/// which is its rounding to fp32. The same bits for any number of threads. On a GPU they are summed
/// in fp32, as by clip_grad_norm_, and nobody waits for it. Throws Error for another dtype.
at::Tensor grad_norm(const std::vector<at::Tensor>& params);

}  // namespace mezzo::optim
