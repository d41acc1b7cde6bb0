#pragma once

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::kernels::reference {

/// The same out of plain tensor ops with autograd's own gradients, on any device: the definition,
/// and what runs where the chunked one declines. Logits are rounded once to the dtype of x.
at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options);

}  // namespace mezzo::kernels::reference
