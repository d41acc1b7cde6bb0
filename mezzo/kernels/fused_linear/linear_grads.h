#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// What a linear layer y = x W^T + b hands back; undefined where there is no bias, or the weight
/// takes no gradient or has been given it (fused_accumulation.h).
struct LinearGrads {
  at::Tensor x, weight, bias;
};

/// grad [..., N], input [..., C], weight [N, C]; bias [N] of any float type, or undefined. The
/// products are of grad's dtype, which is that of input and weight but under libtorch's own
/// autocast: that casts inside the forward pass, where the ops do not see it. Each gradient has the
/// dtype of what it is of; the bias's is summed in fp32.
LinearGrads linear_backward(const at::Tensor& grad, const at::Tensor& input,
                            const at::Tensor& weight, const at::Tensor& bias);

/// A gradient of these fused ops' gradients is not there: throws Error, naming `op`, if one is
/// being asked for.
void check_no_double_backward(std::string_view op);

}  // namespace mezzo::kernels
