#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// While one lives, backward passes of its thread add a linear layer's weight gradient to
/// weight.grad() inside the product, summed in fp32 all the way: there is no tensor for it, no
/// rounding to the products' dtype, and no pass over memory that adds it. What Megatron-LM calls
/// gradient accumulation fusion.
///
/// It serves the fused ops of this folder, and of their weights those that lie on a CPU, are leaves
/// without hooks, and have fp32 gradients (16-bit ones after weight.set_grad_dtype(at::kFloat)).
/// All others get their gradient from autograd as ever. For backward(): torch::autograd::grad(),
/// which is to leave weight.grad() alone, would not.
class FusedAccumulation {
 public:
  FusedAccumulation();
  ~FusedAccumulation();
  FusedAccumulation(const FusedAccumulation&) = delete;
  FusedAccumulation& operator=(const FusedAccumulation&) = delete;

 private:
  bool before_;
};

/// weight.grad() += grad^T input, and true; or false where there is no FusedAccumulation, or weight
/// is none that it serves. grad [rows, N], input [rows, C] of one dtype, weight [N, C].
bool accumulate_fused(const at::Tensor& weight, const at::Tensor& grad, const at::Tensor& input);

}  // namespace mezzo::kernels
