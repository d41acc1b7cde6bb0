#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The op's kernel, for every device, under autograd and below it: the chunked implementation or
/// the reference. Arguments as in linear_cross_entropy.h.
at::Tensor linear_cross_entropy_op(const at::Tensor& x, const at::Tensor& weight,
                                   const at::Tensor& targets, int64_t ignore_index,
                                   double label_smoothing, double z_loss);

}  // namespace mezzo::kernels
