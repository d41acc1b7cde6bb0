#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include "mezzo/models/gpt2_config.h"
#include "mezzo/models/layers.h"

namespace mezzo::models {

/// Each position attends to itself and those before it, in `heads` parallel heads.
class CausalSelfAttentionImpl : public torch::nn::Module {
 public:
  explicit CausalSelfAttentionImpl(const GPT2Config& config);
  /// x [B, T, C] -> [B, T, C]
  at::Tensor forward(const at::Tensor& x);

  Linear c_attn{nullptr};  // C -> 3C: queries, keys, values
  Linear c_proj{nullptr};

 private:
  int64_t heads_;
  double dropout_;
};
TORCH_MODULE(CausalSelfAttention);

/// C -> 4C -> GELU (tanh approximation, GPT-2's) -> C at each position.
class MLPImpl : public torch::nn::Module {
 public:
  explicit MLPImpl(const GPT2Config& config);
  /// x [B, T, C] -> [B, T, C]
  at::Tensor forward(const at::Tensor& x);

  Linear c_fc{nullptr};
  Linear c_proj{nullptr};
};
TORCH_MODULE(MLP);

/// x + attn(ln_1(x)), then that + mlp(ln_2(that)).
class BlockImpl : public torch::nn::Module {
 public:
  explicit BlockImpl(const GPT2Config& config);
  /// x [B, T, C] -> [B, T, C]
  at::Tensor forward(const at::Tensor& x);

  LayerNorm ln_1{nullptr};
  CausalSelfAttention attn{nullptr};
  LayerNorm ln_2{nullptr};
  MLP mlp{nullptr};

 private:
  double dropout_;
};
TORCH_MODULE(Block);

/// GPT-2 (pre-LayerNorm), with the head tied to the token embedding. Parameters are named as
/// GPT-2's: wte.weight, wpe.weight, h.0.ln_1.weight, ..., ln_f.bias; matrices are [out, in].
/// It runs in the dtype and on the device of its parameters, or as autocast decides.
class GPT2Impl : public torch::nn::Module {
 public:
  /// Weights on the CPU in the default dtype, drawn from `seed` alone: the same in every program,
  /// and no other generator moves. Throws UsageError if the configuration cannot be built.
  explicit GPT2Impl(const GPT2Config& config, uint64_t seed = 0);

  /// Fills all parameters anew: normal(0, 0.02) for matrices, 0.02 / sqrt(2 layers) for those that
  /// end a residual branch (c_proj), 0 for biases, 1 for norms.
  void initialize(uint64_t seed);

  /// tokens [B, T] int64, T <= context, ids in [0, vocab_size) -> logits [B, T, V].
  /// Throws Error on another shape or type. An id out of range is found by the embedding: an
  /// exception on a CPU, a device assertion on a GPU.
  at::Tensor forward(const at::Tensor& tokens);

  /// Mean cross entropy of the next-token prediction, a 0-dim tensor.
  /// tokens, targets [B, T] int64; a target of -100 counts for nothing.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets);

  /// What the head sees: tokens [B, T] -> [B, T, C], after the final norm.
  at::Tensor features(const at::Tensor& tokens);
  /// features [..., C] -> logits [..., V]
  at::Tensor head(const at::Tensor& features);

  const GPT2Config& config() const { return config_; }

  Embedding wte{nullptr};  // tokens
  Embedding wpe{nullptr};  // positions
  torch::nn::ModuleList h{nullptr};
  LayerNorm ln_f{nullptr};

 private:
  GPT2Config config_;
};
TORCH_MODULE(GPT2);

}  // namespace mezzo::models
