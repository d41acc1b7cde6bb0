#include "mezzo/kernels/fused_linear/attention_linear.h"

#include <fmt/ranges.h>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/attention/attention.h"
#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/fused_linear/autograd.h"
#include "mezzo/kernels/fused_linear/linear_grads.h"
#include "mezzo/kernels/ops.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Heads {
  at::Tensor query, key, value;  // [B, H, T, E], parts of qkv
};

Heads heads_of(const at::Tensor& qkv, int64_t heads) {
  const int64_t E = qkv.size(2) / (3 * heads);
  const at::Tensor parts = qkv.view({qkv.size(0), qkv.size(1), 3, heads, E}).transpose(1, 3);
  return {parts.select(2, 0), parts.select(2, 1), parts.select(2, 2)};
}

/// [B, H, T, E] -> [B, T, H E]
at::Tensor side_by_side(const at::Tensor& x) { return x.transpose(1, 2).flatten(2); }

class AttentionLinear : public torch::autograd::Function<AttentionLinear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv_in, int64_t heads,
                            const at::Tensor& weight, const std::optional<at::Tensor>& maybe_bias) {
    const at::Tensor bias = maybe_bias.value_or(at::Tensor()), qkv = qkv_in.contiguous();
    const Heads of = heads_of(qkv, heads);
    const auto [out, logsumexp] =
        flash_attention(of.query, of.key, of.value, 0.0, /*is_causal=*/true, {}, {});
    ctx->save_for_backward({qkv, out, logsumexp, weight, bias});
    ctx->saved_data["heads"] = heads;
    return at::linear(side_by_side(out), weight,
                      bias.defined() ? bias.to(weight.scalar_type()) : bias);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward("attention_linear");
    const int64_t heads = ctx->saved_data["heads"].toInt();
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &out = saved[1], &logsumexp = saved[2], &weight = saved[3],
                     &bias = saved[4];
    const LinearGrads linear = linear_grads(grads[0], side_by_side(out), weight, bias);
    const at::Tensor grad_out = linear_grad_of_input(grads[0], weight, out.scalar_type())
                                    .unflatten(2, {heads, out.size(3)})
                                    .transpose(1, 2);
    const at::Tensor grad_qkv = at::empty_like(qkv);
    const Heads of = heads_of(qkv, heads), to = heads_of(grad_qkv, heads);
    flash_attention_backward_into({to.query, to.key, to.value}, grad_out, of.query, of.key,
                                  of.value, out, logsumexp, /*is_causal=*/true);
    return {grad_qkv, {}, linear.weight, linear.bias};
  }
};

}  // namespace

at::Tensor reference::attention_linear(const at::Tensor& qkv, int64_t heads,
                                       const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias) {
  const auto parts = qkv.split(qkv.size(2) / 3, /*dim=*/2);
  const auto by_head = [&](const at::Tensor& x) {
    return x.unflatten(2, {heads, -1}).transpose(1, 2);
  };
  const at::Tensor y =
      at::scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]),
                                       /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
  return at::linear(side_by_side(y), weight,
                    bias.has_value() ? bias->to(weight.scalar_type()) : at::Tensor());
}

at::Tensor attention_linear_autograd(const at::Tensor& qkv, int64_t heads, const at::Tensor& weight,
                                     const std::optional<at::Tensor>& bias) {
  MEZZO_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (3 * heads) == 0, "attention_linear",
              "qkv must be [B, T, 3 C] with C a multiple of the {} heads, but is [{}]", heads,
              fmt::join(qkv.sizes(), ", "));
  if (!qkv.is_cpu()) return reference::attention_linear(qkv, heads, weight, bias);
  return AttentionLinear::apply(qkv, heads, weight, bias);
}

at::Tensor attention_linear(const at::Tensor& qkv, int64_t heads, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
  static const auto op = typed_op<decltype(attention_linear_autograd)>("mezzo::attention_linear");
  return op.call(qkv, heads, weight, bias);
}

}  // namespace mezzo::kernels
