#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/attention/flash.h"

namespace mezzo::kernels {

// Flash attention on a CPU, with the arguments and results of
// aten::_scaled_dot_product_flash_attention_for_cpu and its backward. Candidates, in order:
//   - flash over brgemm (flash.h): no mask, no dropout, head size up to 256, a CPU on which the
//     micro-kernel passed its trial. As measured (bench/attention.cpp, one Intel core) 1.4 to 1.9
//     times as fast as libtorch's forward, 1.4 to 4.7 backward, with AMX and without.
//   - libtorch's: all else; in fp32 for a dtype that is widened (matmul.h), whose own products
//     there fall to a scalar loop.
// MEZZO_VERBOSE=dispatch prints which took a call, and why flash declined.
//   query [B, H, Tq, E], key, value [B, K, Tk, E], K a divisor of H: query head h reads key head
//   h / (H / K), as with enable_gqa; logsumexp [B, H, Tq] fp32, laid out [B, Tq, H]
//   fp32, bf16, fp16; results have that dtype, rounded once. flash.h states what is fp32 inside.
// A NaN in a query makes that query's output NaN; libtorch's kernel makes it 0.

std::tuple<at::Tensor, at::Tensor> flash_attention(const at::Tensor& query, const at::Tensor& key,
                                                   const at::Tensor& value, double dropout_p,
                                                   bool is_causal,
                                                   const std::optional<at::Tensor>& mask,
                                                   std::optional<double> scale);

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, double dropout_p,
    bool is_causal, const std::optional<at::Tensor>& mask, std::optional<double> scale);

/// The gradients written into `grads`, of attention without dropout, mask or a scale of its own.
void flash_attention_backward_into(const flash::InputGradients& grads, const at::Tensor& grad_out,
                                   const at::Tensor& query, const at::Tensor& key,
                                   const at::Tensor& value, const at::Tensor& out,
                                   const at::Tensor& logsumexp, bool is_causal);

}  // namespace mezzo::kernels
