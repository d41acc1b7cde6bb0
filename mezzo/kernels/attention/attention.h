#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// libtorch's flash attention for CPUs, with fp16 done in fp32: its own fp16 products fall to a
// scalar loop (see matmul.h). Same arguments and results as
// aten::_scaled_dot_product_flash_attention_for_cpu and its backward:
//   query, key, value [B, H, T, E]; logsumexp [B, T, H] fp32; fp16 in and out, one rounding at the
//   end; every other dtype goes to libtorch's kernel unchanged.

std::tuple<at::Tensor, at::Tensor> flash_attention(const at::Tensor& query, const at::Tensor& key,
                                                   const at::Tensor& value, double dropout_p,
                                                   bool is_causal,
                                                   const std::optional<at::Tensor>& mask,
                                                   std::optional<double> scale);

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, double dropout_p,
    bool is_causal, const std::optional<at::Tensor>& mask, std::optional<double> scale);

}  // namespace mezzo::kernels
