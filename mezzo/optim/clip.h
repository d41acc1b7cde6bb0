#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo::optim {

/// Multiplies all gradients by min(max_norm / (norm + 1e-6), 1), where norm is the Euclidean norm
/// of them all together; returns that norm, before clipping.
///   params    any shapes, dtypes and devices; those without a gradient count for nothing
///   max_norm  > 0; infinity measures without clipping
///   returns   0-dim, fp32 (fp64 if a gradient is), on the first gradient's device; zero if there
///             is none
/// 16-bit gradients are squared and summed in fp32. A norm that is not finite passes into the
/// gradients, as NaN or zero, as torch.nn.utils.clip_grad_norm_ has it: check with the scaler.
/// Does not wait for a GPU. Throws Error for another max_norm.
at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& params, double max_norm);

}  // namespace mezzo::optim
