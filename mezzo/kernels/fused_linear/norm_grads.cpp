#include "mezzo/kernels/fused_linear/norm_grads.h"

#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/residual_norm/residual_norm.h"

namespace mezzo::kernels {

void keep_branch_dtype(torch::autograd::AutogradContext& ctx, const at::Tensor& branch) {
  if (branch.defined()) ctx.saved_data["branch_dtype"] = branch.scalar_type();
}

std::optional<at::ScalarType> kept_branch_dtype(const torch::autograd::AutogradContext& ctx) {
  const auto branch = ctx.saved_data.find("branch_dtype");
  if (branch == ctx.saved_data.end()) return std::nullopt;
  return branch->second.toScalarType();
}

NormGrads norm_backward(const at::Tensor& grad_sum, const at::Tensor& grad_normed,
                        const KeptNorm& kept, bool wants_normed) {
  const auto of_branch = [&](const at::Tensor& grad_x) {
    return kept.branch_dtype && grad_x.defined() ? grad_x.to(*kept.branch_dtype) : at::Tensor();
  };
  if (!grad_normed.defined()) return {grad_sum, of_branch(grad_sum), {}, {}, {}};
  const at::ScalarType dtype = grad_normed.scalar_type();
  const bool rounds_branch = kept.sum.scalar_type() != dtype && kept.branch_dtype == dtype;
  const ResidualNormGrads norm =
      residual_norm_backward(grad_normed, grad_sum, kept.sum, kept.mean, kept.rstd, kept.weight,
                             kept.bias, {.branch = rounds_branch, .normed = wants_normed});
  return {norm.x, rounds_branch ? norm.branch : of_branch(norm.x),
          norm.weight.to(kept.weight.scalar_type()),
          kept.bias.defined() ? norm.bias.to(kept.bias.scalar_type()) : at::Tensor(), norm.normed};
}

}  // namespace mezzo::kernels
