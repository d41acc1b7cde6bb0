#include "mezzo/kernels/attention/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>

namespace mezzo::kernels {
namespace {

at::Tensor widened(const at::Tensor& x) { return x.to(at::kFloat); }

// An additive mask has the dtype of the query; a boolean one stays as it is.
std::optional<at::Tensor> widened(const std::optional<at::Tensor>& mask) {
  if (!mask.has_value() || mask->scalar_type() != at::kHalf) return mask;
  return mask->to(at::kFloat);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> flash_attention(const at::Tensor& query, const at::Tensor& key,
                                                   const at::Tensor& value, double dropout_p,
                                                   bool is_causal,
                                                   const std::optional<at::Tensor>& mask,
                                                   std::optional<double> scale) {
  const bool is_fp16 = query.scalar_type() == at::kHalf;
  if (!is_fp16) {
    return at::cpu::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p,
                                                                is_causal, mask, scale);
  }
  auto [out, logsumexp] = at::cpu::_scaled_dot_product_flash_attention_for_cpu(
      widened(query), widened(key), widened(value), dropout_p, is_causal, widened(mask), scale);
  return {out.to(at::kHalf), logsumexp};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, double dropout_p,
    bool is_causal, const std::optional<at::Tensor>& mask, std::optional<double> scale) {
  const bool is_fp16 = query.scalar_type() == at::kHalf;
  if (!is_fp16) {
    return at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, mask, scale);
  }
  auto [grad_query, grad_key, grad_value] =
      at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
          widened(grad_out), widened(query), widened(key), widened(value), widened(out), logsumexp,
          dropout_p, is_causal, widened(mask), scale);
  return {grad_query.to(at::kHalf), grad_key.to(at::kHalf), grad_value.to(at::kHalf)};
}

}  // namespace mezzo::kernels
