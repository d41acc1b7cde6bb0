#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>  // of which the parts are written
#include <ATen/core/Tensor.h>

#include "mezzo/numerics/doctor.h"

namespace mezzo::numerics::faults {

/// How a step computes.
struct Setup {
  at::ScalarType dtype = at::kHalf;
  bool is_autocast = false;  ///< fp32 weights under Autocast(dtype); else weights of dtype
  double loss_scale = 1.0;
  int64_t micro_batches = 1;
  bool is_checkpointed = false;  ///< each block of a transformer
};

/// Pure fp16 and bf16, and fp16 under autocast as people run it.
Setup half();
Setup bfloat16();
Setup autocast_half(double loss_scale = 1024.0);
Setup with_micro_batches(Setup setup, int64_t micro_batches);
Setup with_checkpoint(Setup setup);

/// "fp16", "bf16_autocast_micro2_checkpoint"
std::string to_string(const Setup& setup);

/// A model with its batch, of which a step is made.
struct Model {
  std::vector<NamedTensor> parameters;
  std::vector<NamedTensor> buffers;
  std::vector<NamedTensor> inputs;
  /// Of a micro-batch: `inputs` cut along their first dimension, in the same order.
  std::function<at::Tensor(const std::vector<at::Tensor>&)> loss;
  std::function<void()> update;  ///< of the parameters, after the backward pass; may be empty

  at::Tensor parameter(const std::string& name) const;
  at::Tensor input(const std::string& name) const;
};

/// The step: forward and backward of each micro-batch, then the update.
Patient make_patient(const Model& model, const Setup& setup);

/// Of any dtype, computed in fp32: a loss with nothing wrong.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets);

using Unary = std::function<at::Tensor(const at::Tensor&)>;
using Binary = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;

// Note [Parts]
// Each model below is healthy as it is. A fault is planted by giving one of its parts; a part that
// is left empty is the usual one. Parts run in the Scope that their comment names.

/// tokens [4, 8] -> embedding -> blocks of causal attention and MLP -> head -> loss.
/// Parameters: wte, wpe, blocks.N.ln1.weight, .attn.qkv.weight, .attn.proj.weight, .ln2.weight,
/// .mlp.fc.weight, .mlp.proj.weight (each with a .bias), ln_f.weight, head.weight.
/// Inputs: tokens, targets.
struct TransformerParts {
  int64_t blocks = 3;
  int64_t planted_block = 1;  ///< where the parts of a block are; -1: in all of them
  int64_t B = 4, T = 8;

  Binary embedding;  ///< (tokens, wte) -> [B, T, C], "embed"
  std::function<at::Tensor(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias)>
      norm;          ///< "blocks.N.ln1"
  Binary scores;     ///< (q, k [B, H, T, D]) -> [B, H, T, T], "blocks.N.attn"
  Unary mask;        ///< of the scores, "blocks.N.attn"
  Unary softmax;     ///< of the masked scores, "blocks.N.attn"
  Unary activation;  ///< "blocks.N.mlp"
  Binary residual;   ///< (x, branch), "blocks.N"
  Binary loss;       ///< (logits [B * T, V], targets [B * T]), "loss"
};
constexpr int64_t kChannels = 32, kHeads = 4, kVocabulary = 48;
Model transformer(const Setup& setup, const TransformerParts& parts = {});

/// features [8, 16] -> fc1 -> activation -> fc2 [8, 8] -> loss.
/// Parameters: fc1.weight, fc1.bias, fc2.weight, fc2.bias. Inputs: features, targets.
struct MlpParts {
  Unary input;       ///< of the features, "input"
  Unary activation;  ///< [8, 32], "act"
  Binary loss;       ///< (out [8, 8], targets [8]), "loss"
};
Model mlp(const Setup& setup, const MlpParts& parts = {});

/// images [4, 3, 8, 8] -> conv -> norm -> relu -> pool -> fc -> loss.
/// Parameters: conv.weight, bn.weight, bn.bias, fc.weight. Buffers: bn.running_mean,
/// bn.running_var. Inputs: images, targets.
struct ConvNetParts {
  Unary norm;  ///< of [4, 8, 8, 8], "bn"; the usual one is of the running statistics
  Unary pool;  ///< [4, 8, 8, 8] -> [4, 8], "pool"
};
Model conv_net(const Setup& setup, const ConvNetParts& parts = {});

/// sequence [4, 12, 8] -> a cell a step -> head -> loss. Parameters: cell.weight_x, cell.weight_h,
/// cell.bias, head.weight. Inputs: sequence, targets.
struct RecurrentParts {
  Unary activation;  ///< of the new state [4, 16], "cell"; the usual one is tanh
  Unary pool;        ///< states [4, 12, 16] -> [4, 16], "pool"; the usual one is the last
};
Model recurrent(const Setup& setup, const RecurrentParts& parts = {});

}  // namespace mezzo::numerics::faults
