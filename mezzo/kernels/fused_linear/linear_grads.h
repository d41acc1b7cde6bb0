#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// The backward pass of a linear layer y = x W^T + b in two halves: what made x stands between them,
// and may make it again beside its own gradient.
//
//   grad [..., N], weight [N, C]
// The products are of grad's dtype, which is that of x and weight but under libtorch's own
// autocast: that casts inside the forward pass, where the ops do not see it.

/// The gradient of x, [..., C], in `dtype`, that of x.
at::Tensor linear_grad_of_input(const at::Tensor& grad, const at::Tensor& weight,
                                at::ScalarType dtype);

/// Each in the dtype of what it is of; undefined where there is no bias, or the weight takes no
/// gradient or has been given it (fused_accumulation.h).
struct LinearGrads {
  at::Tensor weight, bias;
};

/// input [..., C]: x. bias [N] of any float type, or undefined; its gradient is summed in fp32.
LinearGrads linear_grads(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
                         const at::Tensor& bias);

}  // namespace mezzo::kernels
