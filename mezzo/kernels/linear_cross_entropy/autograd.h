#pragma once

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::kernels {

/// The chunked linear_cross_entropy under autograd: its gradients are found with the loss and kept.
at::Tensor linear_cross_entropy_autograd(const at::Tensor& x, const at::Tensor& weight,
                                         const at::Tensor& targets,
                                         const LinearCrossEntropyOptions& options);

}  // namespace mezzo::kernels
