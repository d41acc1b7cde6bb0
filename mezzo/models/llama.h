#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include "mezzo/models/decoder_block.h"
#include "mezzo/models/language_model.h"
#include "mezzo/models/layers.h"
#include "mezzo/models/model_config.h"

namespace mezzo::models {

/// What a model's queries and keys are turned by (rope.h), [context, D]. It is in fp32 whatever the
/// model is cast to, which a buffer of a module is not.
class RopeTable {
 public:
  explicit RopeTable(const ModelConfig& config);
  /// Where x is; brought there the first time.
  const at::Tensor& on(at::Device device);

 private:
  at::Tensor table_;
};

/// Each position attends to itself and those before it. Queries and keys are turned by their
/// positions (rope.h); H heads of queries share K heads of keys and values (Ainslie et al.,
/// grouped-query attention, arXiv 2305.13245).
class LlamaAttentionImpl : public torch::nn::Module {
 public:
  explicit LlamaAttentionImpl(const ModelConfig& config);
  /// qkv [B, T, (H + 2 K) D], what qkv_proj gives; rope_table [at least T, D] -> [B, T, C]
  at::Tensor forward(const at::Tensor& qkv, const at::Tensor& rope_table);

  Linear qkv_proj{nullptr};  // C -> (H + 2 K) D: queries, keys, values
  Linear o_proj{nullptr};

 private:
  int64_t heads_, kv_heads_, head_size_;
  double dropout_;
};
TORCH_MODULE(LlamaAttention);

/// C -> F twice, gate and up -> silu(gate) * up -> C at each position (Shazeer, GLU variants,
/// arXiv 2002.05202, SwiGLU).
class LlamaMLPImpl : public torch::nn::Module {
 public:
  explicit LlamaMLPImpl(const ModelConfig& config);
  /// gate_up [B, T, 2F], what gate_up_proj gives -> [B, T, C]
  at::Tensor forward(const at::Tensor& gate_up, const BlockOps& ops);

  Linear gate_up_proj{nullptr};  // C -> 2F: gate, up
  Linear down_proj{nullptr};
};
TORCH_MODULE(LlamaMLP);

/// x + self_attn(input_layernorm(x)), then that + mlp(post_attention_layernorm(that)).
class LlamaBlockImpl : public DecoderBlock {
 public:
  /// `rope_table`: the one of all blocks.
  LlamaBlockImpl(const ModelConfig& config, std::shared_ptr<RopeTable> rope_table);
  Residual forward(const Residual& in) override;
  std::vector<std::pair<std::string, Linear>> linears() const override;

  RMSNorm input_layernorm{nullptr};
  LlamaAttention self_attn{nullptr};
  RMSNorm post_attention_layernorm{nullptr};
  LlamaMLP mlp{nullptr};

 private:
  std::shared_ptr<RopeTable> rope_table_;
  double dropout_;
};
TORCH_MODULE(LlamaBlock);

/// Llama (Touvron et al., arXiv 2302.13971; grouped heads, tied heads and scaled rotary positions
/// as Llama 2 and 3 have them). Parameters are named as Hugging Face's without "model.":
/// embed_tokens.weight, layers.0.input_layernorm.weight, ..., norm.weight, and lm_head.weight where
/// the head is not tied; matrices are [out, in]. Those that read the same rows are one:
/// self_attn.qkv_proj.weight (q, k and v below each other), mlp.gate_up_proj.weight (gate and up).
class LlamaImpl : public LanguageModelImpl {
 public:
  /// As GPT2's.
  explicit LlamaImpl(const ModelConfig& config, uint64_t seed = 0);

  std::vector<at::Tensor> embeddings() const override { return {embed_tokens->weight}; }

  Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RMSNorm norm{nullptr};
  Linear lm_head{nullptr};  // without a tied head

 protected:
  at::Tensor embedded(const at::Tensor& tokens, bool will_meet_head) const override;
  at::Tensor final_norm(const at::Tensor& sum) override { return norm(sum); }
  const at::Tensor& head_weight() const override;
  bool ends_branch(const std::string& parameter) const override;
};
TORCH_MODULE(Llama);

}  // namespace mezzo::models
