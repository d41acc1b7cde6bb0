#include "mezzo/models/gpt2.h"

#include <fmt/format.h>

#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "mezzo/base/scope.h"
#include "mezzo/kernels/embed/embed.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/models/norm_linear.h"

namespace mezzo::models {

GPT2AttentionImpl::GPT2AttentionImpl(const ModelConfig& config)
    : heads_(config.heads), dropout_(config.dropout) {
  c_attn = register_module("c_attn", Linear(config.width, 3 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(config.width, config.width, config.bias));
}

at::Tensor GPT2AttentionImpl::forward(const at::Tensor& qkv, const BlockOps& ops) {
  const Scope scope("attn");
  const int64_t B = qkv.size(0), T = qkv.size(1), C = qkv.size(2) / 3;
  // What the fused op saves, it saves in the backward pass.
  const bool is_fp8 = c_proj->fp8 != nullptr && c_proj->is_fp8_for(qkv.narrow(2, 0, C));
  if (ops.is_fused && is_training() && dropout_ == 0.0 && !is_fp8)
    return kernels::attention_linear(qkv, heads_, c_proj->weight, optional(c_proj->bias));
  // split's backward is one concatenation; indexing's would fill three tensors with zeros first.
  const auto parts = qkv.split(C, /*dim=*/2);
  const auto by_head = [&](const at::Tensor& t) {
    return t.view({B, T, heads_, C / heads_}).transpose(1, 2);
  };
  const auto y = at::scaled_dot_product_attention(
      by_head(parts[0]), by_head(parts[1]), by_head(parts[2]),
      /*attn_mask=*/std::nullopt, is_training() ? dropout_ : 0.0, /*is_causal=*/true);
  return c_proj(y.transpose(1, 2).reshape({B, T, C}));
}

GPT2MLPImpl::GPT2MLPImpl(const ModelConfig& config) {
  c_fc = register_module("c_fc", Linear(config.width, 4 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(4 * config.width, config.width, config.bias));
}

at::Tensor GPT2MLPImpl::forward(const at::Tensor& hidden, const BlockOps& ops) {
  const Scope scope("mlp");
  if (!ops.is_fused) return c_proj(at::gelu(hidden, "tanh"));
  if (c_proj->is_fp8_for(hidden))
    return kernels::gelu_fp8_linear(hidden, c_proj->weight, optional(c_proj->bias), ops.recomputes,
                                    c_proj->fp8);
  return kernels::gelu_linear(hidden, c_proj->weight, optional(c_proj->bias), ops.recomputes);
}

GPT2BlockImpl::GPT2BlockImpl(const ModelConfig& config) : dropout_(config.dropout) {
  ln_1 = register_module("ln_1", LayerNorm(config.width, config.bias));
  attn = register_module("attn", GPT2Attention(config));
  ln_2 = register_module("ln_2", LayerNorm(config.width, config.bias));
  mlp = register_module("mlp", GPT2MLP(config));
}

Residual GPT2BlockImpl::forward(const Residual& in) {
  const auto [middle, qkv] = norm_linear("attn", in, ln_1, attn->c_attn, ops);
  const at::Tensor attended = at::dropout(attn(qkv, ops), dropout_, is_training());
  const auto [out, hidden] = norm_linear("mlp", {middle, attended}, ln_2, mlp->c_fc, ops);
  return {out, at::dropout(mlp(hidden, ops), dropout_, is_training())};
}

std::vector<std::pair<std::string, Linear>> GPT2BlockImpl::linears() const {
  return {{"attn.c_attn", attn->c_attn},
          {"attn.c_proj", attn->c_proj},
          {"mlp.c_fc", mlp->c_fc},
          {"mlp.c_proj", mlp->c_proj}};
}

GPT2Impl::GPT2Impl(const ModelConfig& config, uint64_t seed)
    : LanguageModelImpl(config, Family::kGPT2) {
  wte = register_module("wte", Embedding(config.vocab_size, config.width));
  wpe = register_module("wpe", Embedding(config.context, config.width));
  h = register_module("h", torch::nn::ModuleList());
  for (int64_t i = 0; i < config.layers; ++i) {
    const GPT2Block block(config);
    h->push_back(block);
    add_block(fmt::format("h.{}", i), block.ptr());
  }
  ln_f = register_module("ln_f", LayerNorm(config.width, config.bias));
  initialize(seed);
}

bool GPT2Impl::ends_branch(const std::string& parameter) const {
  return parameter.ends_with("c_proj.weight");
}

at::Tensor GPT2Impl::embedded(const at::Tensor& tokens, bool will_meet_head) const {
  const at::ScalarType dtype = ln_f->weight.scalar_type();
  if (is_fused() && dtype != at::kDouble)
    return kernels::embed(tokens, wte->weight, wpe->weight, dtype, /*sparse=*/will_meet_head);
  return at::embedding(wte->weight, tokens).to(dtype) +
         wpe->weight.slice(0, 0, tokens.size(1)).to(dtype);
}

void cut_positions(std::map<std::string, at::Tensor>& weights, int64_t context) {
  const auto found = weights.find("wpe.weight");
  if (found == weights.end() || found->second.dim() != 2 || found->second.size(0) <= context)
    return;
  found->second = found->second.narrow(0, 0, context).clone();
}

}  // namespace mezzo::models
