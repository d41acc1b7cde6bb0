#include "mezzo/models/llama.h"

#include <fmt/format.h>

#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/silu.h>

#include "mezzo/base/scope.h"
#include "mezzo/kernels/attention/grouped.h"
#include "mezzo/kernels/embed/embed.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "mezzo/kernels/rope/rope.h"
#include "mezzo/models/norm_linear.h"

namespace mezzo::models {

RopeTable::RopeTable(const ModelConfig& config)
    : table_(kernels::rope_table(config.context, config.width / config.heads, config.rope)) {}

const at::Tensor& RopeTable::on(at::Device device) {
  if (table_.device() != device) table_ = table_.to(device);
  return table_;
}

LlamaAttentionImpl::LlamaAttentionImpl(const ModelConfig& config)
    : heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_size_(config.width / config.heads),
      dropout_(config.dropout) {
  const int64_t rows = (heads_ + 2 * kv_heads_) * head_size_;
  qkv_proj = register_module("qkv_proj", Linear(config.width, rows, /*has_bias=*/false));
  o_proj = register_module("o_proj", Linear(config.width, config.width, /*has_bias=*/false));
}

at::Tensor LlamaAttentionImpl::forward(const at::Tensor& qkv, const at::Tensor& rope_table) {
  const Scope scope("self_attn");
  // split's backward is one concatenation; indexing's would fill tensors with zeros first.
  const auto parts = qkv.unflatten(2, {heads_ + 2 * kv_heads_, head_size_})
                         .split_with_sizes({heads_ + kv_heads_, kv_heads_}, /*dim=*/2);
  // A copy: as a part of qkv it would keep the queries and keys that are not turned, too.
  const at::Tensor value = parts[1].contiguous();
  const auto turned =
      kernels::rope(parts[0], rope_table).split_with_sizes({heads_, kv_heads_}, /*dim=*/2);
  const at::Tensor y =
      kernels::grouped_attention(turned[0].transpose(1, 2), turned[1].transpose(1, 2),
                                 value.transpose(1, 2), is_training() ? dropout_ : 0.0);
  return o_proj(y.transpose(1, 2).flatten(2));
}

LlamaMLPImpl::LlamaMLPImpl(const ModelConfig& config) {
  gate_up_proj = register_module("gate_up_proj",
                                 Linear(config.width, 2 * config.mlp_width, /*has_bias=*/false));
  down_proj =
      register_module("down_proj", Linear(config.mlp_width, config.width, /*has_bias=*/false));
}

at::Tensor LlamaMLPImpl::forward(const at::Tensor& gate_up, const BlockOps& ops) {
  const Scope scope("mlp");
  const auto parts = gate_up.chunk(2, /*dim=*/-1);
  if (!ops.is_fused) return down_proj(at::silu(parts[0]) * parts[1]);
  if (down_proj->is_fp8_for(parts[0]))
    return kernels::swiglu_fp8_linear(gate_up, down_proj->weight, {}, ops.recomputes,
                                      down_proj->fp8);
  return kernels::swiglu_linear(gate_up, down_proj->weight, {}, ops.recomputes);
}

LlamaBlockImpl::LlamaBlockImpl(const ModelConfig& config, std::shared_ptr<RopeTable> rope_table)
    : rope_table_(std::move(rope_table)), dropout_(config.dropout) {
  input_layernorm = register_module("input_layernorm", RMSNorm(config.width, config.norm_eps));
  self_attn = register_module("self_attn", LlamaAttention(config));
  post_attention_layernorm =
      register_module("post_attention_layernorm", RMSNorm(config.width, config.norm_eps));
  mlp = register_module("mlp", LlamaMLP(config));
}

Residual LlamaBlockImpl::forward(const Residual& in) {
  const auto [middle, qkv] =
      norm_linear("self_attn", in, input_layernorm, self_attn->qkv_proj, ops);
  const at::Tensor attended =
      at::dropout(self_attn(qkv, rope_table_->on(qkv.device())), dropout_, is_training());
  const auto [out, gate_up] =
      norm_linear("mlp", {middle, attended}, post_attention_layernorm, mlp->gate_up_proj, ops);
  return {out, at::dropout(mlp(gate_up, ops), dropout_, is_training())};
}

std::vector<std::pair<std::string, Linear>> LlamaBlockImpl::linears() const {
  return {{"self_attn.qkv_proj", self_attn->qkv_proj},
          {"self_attn.o_proj", self_attn->o_proj},
          {"mlp.gate_up_proj", mlp->gate_up_proj},
          {"mlp.down_proj", mlp->down_proj}};
}

LlamaImpl::LlamaImpl(const ModelConfig& config, uint64_t seed)
    : LanguageModelImpl(config, Family::kLlama) {
  embed_tokens = register_module("embed_tokens", Embedding(config.vocab_size, config.width));
  layers = register_module("layers", torch::nn::ModuleList());
  const auto table = std::make_shared<RopeTable>(config);
  for (int64_t i = 0; i < config.layers; ++i) {
    const LlamaBlock block(config, table);
    layers->push_back(block);
    add_block(fmt::format("layers.{}", i), block.ptr());
  }
  norm = register_module("norm", RMSNorm(config.width, config.norm_eps));
  if (!config.tied)
    lm_head =
        register_module("lm_head", Linear(config.width, config.vocab_size, /*has_bias=*/false));
  initialize(seed);
}

const at::Tensor& LlamaImpl::head_weight() const {
  return config().tied ? embed_tokens->weight : lm_head->weight;
}

bool LlamaImpl::ends_branch(const std::string& parameter) const {
  return parameter.ends_with("o_proj.weight") || parameter.ends_with("down_proj.weight");
}

at::Tensor LlamaImpl::embedded(const at::Tensor& tokens, bool will_meet_head) const {
  const at::ScalarType dtype = norm->weight.scalar_type();
  if (is_fused() && dtype != at::kDouble)
    return kernels::embed(tokens, embed_tokens->weight, /*positions=*/{}, dtype,
                          /*sparse=*/will_meet_head && config().tied);
  return at::embedding(embed_tokens->weight, tokens).to(dtype);
}

}  // namespace mezzo::models
