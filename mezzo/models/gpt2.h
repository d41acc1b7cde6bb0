#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include "mezzo/kernels/fp8/recipe.h"
#include "mezzo/models/model_config.h"
#include "mezzo/models/layers.h"

namespace mezzo::models {

/// What the backward pass makes again instead of keeping it. The gradients are the same bits.
enum class Recompute {
  kNone,         ///< nothing
  kElementwise,  ///< normalised rows and GELU, a third of the activations: their gradients' passes
                 ///< write them again
  kLayer,        ///< whole blocks: all but their inputs, for one more forward pass
};

/// The level called "none", "elementwise" or "layer". Throws UsageError for another name.
Recompute recompute_level(std::string_view name);

/// Why no layer of a model of this shape multiplies in FP8 on this device; empty if some do
/// (GPT2::set_fp8()).
std::string fp8_refusal(const ModelConfig& config, at::Device device);

/// How a block runs: as fused ops (mezzo/kernels/fused_linear/) or as libtorch's, one by one.
struct BlockOps {
  bool is_fused = true;
  bool recomputes = true;  // normalised rows and GELU; fused only
};

/// The residual stream between blocks, and what the last block leaves to be added to it: the norm
/// that reads the sum makes it in the same pass. Both [B, T, C].
struct Residual {
  at::Tensor x;
  at::Tensor branch;  // undefined: nothing
};

/// Each position attends to itself and those before it, in `heads` parallel heads.
class CausalSelfAttentionImpl : public torch::nn::Module {
 public:
  explicit CausalSelfAttentionImpl(const ModelConfig& config);
  /// qkv [B, T, 3C], what c_attn gives -> [B, T, C]
  at::Tensor forward(const at::Tensor& qkv, const BlockOps& ops);

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
  explicit MLPImpl(const ModelConfig& config);
  /// hidden [B, T, 4C], what c_fc gives -> [B, T, C]
  at::Tensor forward(const at::Tensor& hidden, const BlockOps& ops);

  Linear c_fc{nullptr};
  Linear c_proj{nullptr};
};
TORCH_MODULE(MLP);

/// x + attn(ln_1(x)), then that + mlp(ln_2(that)).
class BlockImpl : public torch::nn::Module {
 public:
  explicit BlockImpl(const ModelConfig& config);
  Residual forward(const Residual& in);

  LayerNorm ln_1{nullptr};
  CausalSelfAttention attn{nullptr};
  LayerNorm ln_2{nullptr};
  MLP mlp{nullptr};
  BlockOps ops;

 private:
  double dropout_;
};
TORCH_MODULE(Block);

/// function(inputs), of which only the inputs are kept for the backward pass: mezzo::checkpoint.
using Checkpoint = std::function<std::vector<at::Tensor>(
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& function,
    const std::vector<at::Tensor>& inputs, bool preserves_random)>;

/// GPT-2 (pre-LayerNorm), with the head tied to the token embedding. Parameters are named as
/// GPT-2's: wte.weight, wpe.weight, h.0.ln_1.weight, ..., ln_f.bias; matrices are [out, in].
/// It runs in the dtype and on the device of its parameters, or as autocast decides; the residual
/// stream has the dtype of the norms' parameters, so that matrices in 16 bits beside norms in fp32
/// leave it in fp32.
class GPT2Impl : public torch::nn::Module {
 public:
  /// Weights on the CPU in the default dtype, drawn from `seed` alone: the same in every program,
  /// and no other generator moves. Throws UsageError if the configuration cannot be built.
  explicit GPT2Impl(const ModelConfig& config, uint64_t seed = 0);

  /// Fills all parameters anew: normal(0, 0.02) for matrices, 0.02 / sqrt(2 layers) for those that
  /// end a residual branch (c_proj), 0 for biases, 1 for norms.
  void initialize(uint64_t seed);

  /// tokens [B, T] int64, T <= context, ids in [0, vocab_size) -> logits [B, T, V].
  /// Throws Error on another shape or type. An id out of range is found by the embedding: an
  /// exception on a CPU, a device assertion on a GPU.
  at::Tensor forward(const at::Tensor& tokens);

  /// Mean cross entropy of the next-token prediction, a 0-dim tensor; the logits are never there as
  /// a whole (linear_cross_entropy.h), but for set_fused(false).
  /// tokens, targets [B, T] int64; a target of -100 counts for nothing.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets);

  /// What the head sees: tokens [B, T] -> [B, T, C], after the final norm.
  at::Tensor features(const at::Tensor& tokens);
  /// features [..., C] -> logits [..., V]
  at::Tensor head(const at::Tensor& features);

  /// false: libtorch's ops one by one, each with its own rule under autocast, and differentiable
  /// twice. They give the same up to rounding, for more time and memory. Fused at first.
  void set_fused(bool is_fused);
  /// kLayer needs `checkpoint`; throws UsageError without. kElementwise at first.
  void set_recompute(Recompute level, Checkpoint checkpoint = nullptr);

  /// The linear layers of all blocks but the first and the last multiply in FP8, with a recipe
  /// each; none: no layer does, as at first. Where a batch has rows (B x T) that FP8 products do
  /// not take, those layers run as if it were not set. Throws UsageError, with fp8_refusal(), where
  /// there is one for this model where its parameters are.
  void set_fp8(const std::optional<kernels::Fp8Scaling>& scaling);

  /// What delayed scaling remembers, as copies: of each caster that has cast, "h.1.mlp.c_fc.grad",
  /// its amaxes [H] and the latest, [H + 1]. Empty with current scaling.
  std::map<std::string, at::Tensor> fp8_histories() const;
  /// Goes on from those; casters that are not among them begin anew. A CUDA graph of steps stays
  /// good if all are. Throws Error for a caster that this model does not have, or another length.
  void set_fp8_histories(const std::map<std::string, at::Tensor>& histories);

  const ModelConfig& config() const { return config_; }

  Embedding wte{nullptr};  // tokens
  Embedding wpe{nullptr};  // positions
  torch::nn::ModuleList h{nullptr};
  LayerNorm ln_f{nullptr};

 private:
  at::Tensor embedded(const at::Tensor& tokens, bool is_tied) const;
  at::Tensor features(const at::Tensor& tokens, bool is_tied);
  Residual run_block(size_t i, const Residual& in);
  std::vector<std::pair<std::string, Linear>> inner_linears() const;
  std::map<std::string, kernels::Fp8Caster*> fp8_casters() const;

  ModelConfig config_;
  bool is_fused_ = true;
  Checkpoint checkpoint_;  // of blocks; none: they are not checkpointed
};
TORCH_MODULE(GPT2);

}  // namespace mezzo::models
