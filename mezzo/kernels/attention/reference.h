#pragma once

#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::reference {

/// What attention.h computes, as plain tensor code with the Tq x Tk matrix, in the dtype of the
/// arguments: give it fp64 for the exact value. {out [B, H, Tq, E], logsumexp [B, H, Tq]}.
std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& query, const at::Tensor& key,
                                             const at::Tensor& value, bool is_causal, double scale);

/// {grad_query, grad_key, grad_value}.
std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& grad_out,
                                                                  const at::Tensor& query,
                                                                  const at::Tensor& key,
                                                                  const at::Tensor& value,
                                                                  bool is_causal, double scale);

}  // namespace mezzo::kernels::reference
