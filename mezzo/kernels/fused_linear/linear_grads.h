#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// What a linear layer y = x W^T + b hands back; undefined where there is no bias, or the weight
/// takes no gradient.
struct LinearGrads {
  at::Tensor x, weight, bias;
};

/// grad [..., N], input [..., C], weight [N, C], all of one dtype; bias [N] of any float type, or
/// undefined. The bias's gradient is summed in fp32 and rounded to the bias's dtype.
LinearGrads linear_backward(const at::Tensor& grad, const at::Tensor& input,
                            const at::Tensor& weight, const at::Tensor& bias);

/// A gradient of these fused ops' gradients is not there: throws Error, naming `op`, if one is
/// being asked for.
void check_no_double_backward(std::string_view op);

}  // namespace mezzo::kernels
