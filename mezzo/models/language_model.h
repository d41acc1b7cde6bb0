#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "mezzo/kernels/fp8/recipe.h"
#include "mezzo/models/decoder_block.h"
#include "mezzo/models/layers.h"
#include "mezzo/models/model_config.h"

namespace mezzo::models {

/// What the backward pass makes again instead of keeping it. The gradients are the same bits.
enum class Recompute {
  kNone,         ///< nothing
  kElementwise,  ///< normalised rows and activations of the MLP, of a GPT-2 a third of what is
                 ///< kept: their gradients' passes write them again
  kLayer,        ///< whole blocks: all but their inputs, for one more forward pass
};

/// The level called "none", "elementwise" or "layer". Throws UsageError for another name.
Recompute recompute_level(std::string_view name);

/// Why no layer of a model of this shape multiplies in FP8 on this device; empty if some do
/// (LanguageModelImpl::set_fp8()).
std::string fp8_refusal(const ModelConfig& config, at::Device device);

/// function(inputs), of which only the inputs are kept for the backward pass: mezzo::checkpoint.
using Checkpoint = std::function<std::vector<at::Tensor>(
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& function,
    const std::vector<at::Tensor>& inputs, bool preserves_random)>;

/// A decoder that predicts the next token: an embedding, blocks, a norm and a head; what its
/// families (gpt2.h, llama.h) have in common. It runs in the dtype and on the device of its
/// parameters, or as autocast decides; the residual stream has the dtype of the norms' parameters,
/// so that matrices in 16 bits beside norms in fp32 leave it in fp32.
class LanguageModelImpl : public torch::nn::Module {
 public:
  /// Fills all parameters anew: normal(0, 0.02) for matrices, 0.02 / sqrt(2 layers) for those that
  /// end a residual branch, 0 for biases, 1 for norms.
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

  /// false: libtorch's ops one by one, each with its own rule under autocast. They give the same up
  /// to rounding, for more time and memory, and can be differentiated twice where attention is
  /// libtorch's plain one: at::globalContext().setSDPUseFlash(false), and its like on a GPU. Fused
  /// at first.
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
  /// Where the parameters are.
  at::Device device() const { return head_weight().device(); }
  /// The tables of which ids pick rows: a part of parameters().
  virtual std::vector<at::Tensor> embeddings() const = 0;

 protected:
  /// Throws UsageError if the configuration cannot be built, or is of another family.
  LanguageModelImpl(const ModelConfig& config, Family family);

  /// The next block; `name` is that of its parameters, "h.0".
  void add_block(const std::string& name, std::shared_ptr<DecoderBlock> block);

  // What a family has of its own.
  /// tokens [B, T] -> [B, T, C]. will_meet_head: the gradient of the head is to be added to that of
  /// the token embedding.
  virtual at::Tensor embedded(const at::Tensor& tokens, bool will_meet_head) const = 0;
  virtual at::Tensor final_norm(const at::Tensor& sum) = 0;
  virtual const at::Tensor& head_weight() const = 0;  // [V, C]
  /// Whether this parameter ends a residual branch.
  virtual bool ends_branch(const std::string& parameter) const = 0;

  bool is_fused() const { return is_fused_; }

 private:
  at::Tensor features(const at::Tensor& tokens, bool will_meet_head);
  struct Named {
    std::string name;
    std::shared_ptr<DecoderBlock> block;
  };
  Residual run(const Named& named, const Residual& in);
  std::vector<std::pair<std::string, Linear>> inner_linears() const;
  std::map<std::string, kernels::Fp8Caster*> fp8_casters() const;

  ModelConfig config_;
  std::vector<Named> blocks_;
  bool is_fused_ = true;
  Checkpoint checkpoint_;  // of blocks; none: they are not checkpointed
};

/// A handle of a model of any family, made of a GPT2 or a Llama; copies are the same model.
class LanguageModel : public torch::nn::ModuleHolder<LanguageModelImpl> {
 public:
  LanguageModel(std::nullptr_t) : ModuleHolder(nullptr) {}
  template <class Model>
  LanguageModel(const torch::nn::ModuleHolder<Model>& model)
      : ModuleHolder(std::shared_ptr<LanguageModelImpl>(model.ptr())) {}
};

}  // namespace mezzo::models
