#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// at::scaled_dot_product_attention, causal, of heads that may share their keys and values: query
/// head i reads key head i / (H / K).
///
///   query [B, H, T, E], key and value [B, K, T, E], K a divisor of H
///   returns [B, H, T, E]
/// Where libtorch has a fused kernel for whole heads alone (of a GPU's, memory-efficient attention,
/// which is that of fp32 and of fp16 before Ampere; 2.11), keys and values are repeated for it:
/// what it would take instead keeps [B, H, T, T].
at::Tensor grouped_attention(const at::Tensor& query, const at::Tensor& key,
                             const at::Tensor& value, double dropout_p);

}  // namespace mezzo::kernels
