#include "mezzo/kernels/attention/attention.h"

#include <cmath>

#include <fmt/format.h>

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>

#include "mezzo/base/log.h"
#include "mezzo/kernels/attention/flash.h"
#include "mezzo/kernels/matmul/matmul.h"

namespace mezzo::kernels {
namespace {

using Mask = std::optional<at::Tensor>;

at::Tensor widened(const at::Tensor& x) { return x.to(at::kFloat); }

// An additive mask has the dtype of the query; a boolean one stays as it is.
Mask widened(const Mask& mask) {
  if (!mask.has_value() || !widens(mask->scalar_type())) return mask;
  return mask->to(at::kFloat);
}

std::string refusal(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                    double dropout_p, const Mask& mask) {
  if (dropout_p > 0) return "dropout";
  if (mask.has_value() && mask->defined()) return "a mask";  // autograd hands on an undefined one
  return flash::refusal(query, key, value);
}

bool takes_flash(const char* pass, const at::Tensor& query, const at::Tensor& key,
                 const at::Tensor& value, double dropout_p, const Mask& mask) {
  const std::string reason = refusal(query, key, value, dropout_p, mask);
  if (log_enabled("dispatch")) {
    log("dispatch",
        fmt::format("{} attention {} {}: {}", c10::toString(query.scalar_type()), pass,
                    c10::str(query.sizes()),
                    reason.empty() ? "flash over brgemm"
                                   : "libtorch, for flash over brgemm declined: " + reason));
  }
  return reason.empty();
}

double scale_of(const at::Tensor& query, std::optional<double> scale) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(query.size(-1))));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> libtorch_backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, double dropout_p,
    bool is_causal, const Mask& mask, std::optional<double> scale) {
  const at::ScalarType dtype = query.scalar_type();
  if (!widens(dtype)) {
    return at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, mask, scale);
  }
  auto [grad_query, grad_key, grad_value] =
      at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
          widened(grad_out), widened(query), widened(key), widened(value), widened(out), logsumexp,
          dropout_p, is_causal, widened(mask), scale);
  return {grad_query.to(dtype), grad_key.to(dtype), grad_value.to(dtype)};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> flash_attention(const at::Tensor& query, const at::Tensor& key,
                                                   const at::Tensor& value, double dropout_p,
                                                   bool is_causal, const Mask& mask,
                                                   std::optional<double> scale) {
  if (takes_flash("forward", query, key, value, dropout_p, mask))
    return flash::forward(query, key, value, is_causal, scale_of(query, scale));
  const at::ScalarType dtype = query.scalar_type();
  if (!widens(dtype)) {
    return at::cpu::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p,
                                                                is_causal, mask, scale);
  }
  auto [out, logsumexp] = at::cpu::_scaled_dot_product_flash_attention_for_cpu(
      widened(query), widened(key), widened(value), dropout_p, is_causal, widened(mask), scale);
  return {out.to(dtype), logsumexp};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_attention_backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, double dropout_p,
    bool is_causal, const Mask& mask, std::optional<double> scale) {
  if (takes_flash("backward", query, key, value, dropout_p, mask)) {
    return flash::backward(grad_out, query, key, value, out, logsumexp, is_causal,
                           scale_of(query, scale));
  }
  return libtorch_backward(grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, mask,
                           scale);
}

void flash_attention_backward_into(const flash::InputGradients& grads, const at::Tensor& grad_out,
                                   const at::Tensor& query, const at::Tensor& key,
                                   const at::Tensor& value, const at::Tensor& out,
                                   const at::Tensor& logsumexp, bool is_causal) {
  if (takes_flash("backward", query, key, value, 0.0, std::nullopt)) {
    return flash::backward_into(grads, grad_out, query, key, value, out, logsumexp, is_causal,
                                scale_of(query, std::nullopt));
  }
  const auto [grad_query, grad_key, grad_value] = libtorch_backward(
      grad_out, query, key, value, out, logsumexp, 0.0, is_causal, std::nullopt, std::nullopt);
  grads.query.copy_(grad_query);
  grads.key.copy_(grad_key);
  grads.value.copy_(grad_value);
}

}  // namespace mezzo::kernels
