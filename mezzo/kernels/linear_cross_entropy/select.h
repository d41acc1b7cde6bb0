#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// Empty if the chunked CPU implementation may serve, otherwise the reason why not.
std::string linear_cross_entropy_refusal(const at::Tensor& x, const at::Tensor& weight);

/// The op's kernel, for every device, under autograd and below it: the chunked implementation or
/// the reference. Arguments as in linear_cross_entropy.h.
at::Tensor select_linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                       const at::Tensor& targets, int64_t ignore_index,
                                       double label_smoothing, double z_loss);

}  // namespace mezzo::kernels
