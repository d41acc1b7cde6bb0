#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The end of a transformer's attention as one node of autograd: y = attention(qkv) W^T + b, each
/// position seeing itself and those before it.
///
///   qkv      [B, T, 3 C]: queries, keys and values, C channels each, those of a head side by side;
///            fp32, bf16 or fp16, in the dtype of weight
///   heads    a divisor of C
///   weight   [N, C], bias [N] of any float type, or none
///   returns  [B, T, N] in the dtype of weight
/// The gradients of queries, keys and values are written where they belong in that of qkv, which
/// libtorch's ops would put together from three. The op mezzo::attention_linear of the dispatcher:
/// under Autocast qkv and weight are cast. No double backward. See attention.h; elsewhere than on a
/// CPU it is the reference.
at::Tensor attention_linear(const at::Tensor& qkv, int64_t heads, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias);

namespace reference {

/// The same as libtorch's ops, one by one.
at::Tensor attention_linear(const at::Tensor& qkv, int64_t heads, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias);

}  // namespace reference
}  // namespace mezzo::kernels
