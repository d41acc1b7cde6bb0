#pragma once

#include <cstdint>
#include <map>
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

/// Each position attends to itself and those before it, in `heads` parallel heads.
class GPT2AttentionImpl : public torch::nn::Module {
 public:
  explicit GPT2AttentionImpl(const ModelConfig& config);
  /// qkv [B, T, 3C], what c_attn gives -> [B, T, C]
  at::Tensor forward(const at::Tensor& qkv, const BlockOps& ops);

  Linear c_attn{nullptr};  // C -> 3C: queries, keys, values
  Linear c_proj{nullptr};

 private:
  int64_t heads_;
  double dropout_;
};
TORCH_MODULE(GPT2Attention);

/// C -> 4C -> GELU (tanh approximation, GPT-2's) -> C at each position.
class GPT2MLPImpl : public torch::nn::Module {
 public:
  explicit GPT2MLPImpl(const ModelConfig& config);
  /// hidden [B, T, 4C], what c_fc gives -> [B, T, C]
  at::Tensor forward(const at::Tensor& hidden, const BlockOps& ops);

  Linear c_fc{nullptr};
  Linear c_proj{nullptr};
};
TORCH_MODULE(GPT2MLP);

/// x + attn(ln_1(x)), then that + mlp(ln_2(that)).
class GPT2BlockImpl : public DecoderBlock {
 public:
  explicit GPT2BlockImpl(const ModelConfig& config);
  Residual forward(const Residual& in) override;
  std::vector<std::pair<std::string, Linear>> linears() const override;

  LayerNorm ln_1{nullptr};
  GPT2Attention attn{nullptr};
  LayerNorm ln_2{nullptr};
  GPT2MLP mlp{nullptr};

 private:
  double dropout_;
};
TORCH_MODULE(GPT2Block);

/// GPT-2 (pre-LayerNorm), with the head tied to the token embedding. Parameters are named as
/// GPT-2's: wte.weight, wpe.weight, h.0.ln_1.weight, ..., ln_f.bias; matrices are [out, in].
class GPT2Impl : public LanguageModelImpl {
 public:
  /// Weights on the CPU in the default dtype, drawn from `seed` alone: the same in every program,
  /// and no other generator moves. Throws UsageError if the configuration cannot be built.
  explicit GPT2Impl(const ModelConfig& config, uint64_t seed = 0);

  std::vector<at::Tensor> embeddings() const override { return {wte->weight, wpe->weight}; }

  Embedding wte{nullptr};  // tokens
  Embedding wpe{nullptr};  // positions
  torch::nn::ModuleList h{nullptr};
  LayerNorm ln_f{nullptr};

 protected:
  at::Tensor embedded(const at::Tensor& tokens, bool will_meet_head) const override;
  at::Tensor final_norm(const at::Tensor& sum) override { return ln_f(sum); }
  const at::Tensor& head_weight() const override { return wte->weight; }
  bool ends_branch(const std::string& parameter) const override;
};
TORCH_MODULE(GPT2);

/// Of a GPT-2's parameters, by name: the positions of a context alone, where there are more.
void cut_positions(std::map<std::string, at::Tensor>& weights, int64_t context);

}  // namespace mezzo::models
