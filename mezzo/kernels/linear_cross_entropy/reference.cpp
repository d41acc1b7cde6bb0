#include "mezzo/kernels/linear_cross_entropy/reference.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>

namespace mezzo::kernels::reference {

at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options) {
  at::Tensor logits = at::linear(x, weight).reshape({-1, weight.size(0)});
  if (logits.scalar_type() != at::kDouble) logits = logits.to(at::kFloat);
  const at::Tensor rows = targets.reshape(-1);
  const at::Tensor loss = at::cross_entropy_loss(logits, rows, /*weight=*/{}, at::Reduction::Mean,
                                                 options.ignore_index, options.label_smoothing);
  if (options.z_loss == 0.0) return loss;
  const at::Tensor is_counted = rows != options.ignore_index;
  const at::Tensor squares = at::logsumexp(logits, 1).square().masked_fill(~is_counted, 0.0);
  return loss + options.z_loss * squares.sum() / is_counted.sum();
}

}  // namespace mezzo::kernels::reference
