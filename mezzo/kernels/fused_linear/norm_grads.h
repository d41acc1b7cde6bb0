#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace torch::autograd {
struct AutogradContext;
}

namespace mezzo::kernels {

/// What the normalisation of a sum, sum = x + branch, hands back, each in the dtype of what it is
/// of; undefined where there is no branch, no bias or no gradient.
struct NormGrads {
  at::Tensor x, branch, weight, bias;
  at::Tensor normed;  // what was normalised, again, if asked for; in the dtype of its gradient
};

/// What a node of autograd keeps of residual_norm(): see residual_norm.h.
struct KeptNorm {
  const at::Tensor &sum, &mean, &rstd, &weight, &bias;
  std::optional<at::ScalarType> branch_dtype;  // none: there was no branch
};

/// The branch's dtype among what the node keeps.
void keep_branch_dtype(torch::autograd::AutogradContext& ctx, const at::Tensor& branch);
std::optional<at::ScalarType> kept_branch_dtype(const torch::autograd::AutogradContext& ctx);

/// grad_sum and grad_normed may be undefined: no gradient came to sum, or to what is normalised.
NormGrads norm_backward(const at::Tensor& grad_sum, const at::Tensor& grad_normed,
                        const KeptNorm& kept, bool wants_normed);

}  // namespace mezzo::kernels
