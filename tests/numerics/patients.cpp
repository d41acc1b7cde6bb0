#include "tests/numerics/patients.h"

#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include <ATen/Context.h>  // manual_seed
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/scope.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr uint64_t kSeed = 20;

/// Leaves of the dtype that a setup's weights have, by name.
class Weights {
 public:
  explicit Weights(const Setup& setup) : dtype_(setup.is_autocast ? at::kFloat : setup.dtype) {
    at::manual_seed(kSeed);
  }

  void add(const std::string& name, const Tensor& values) {
    named_.emplace_back(name, values.to(dtype_).set_requires_grad(true));
    by_name_[name] = named_.back().second;
  }
  /// So that a unit input gives a unit output.
  void add_linear(const std::string& name, int64_t out, int64_t in) {
    add(name, at::randn({out, in}) / std::sqrt(static_cast<double>(in)));
  }
  const Tensor& operator[](const std::string& name) const { return by_name_.at(name); }
  const std::vector<NamedTensor>& named() const { return named_; }
  at::ScalarType dtype() const { return dtype_; }

 private:
  at::ScalarType dtype_;
  std::vector<NamedTensor> named_;
  std::map<std::string, Tensor> by_name_;
};

Tensor find(const std::vector<NamedTensor>& tensors, const std::string& name) {
  for (const auto& [its_name, tensor] : tensors)
    if (its_name == name) return tensor.detach();
  throw std::out_of_range(name);
}

Tensor causal(const Tensor& scores) {
  const int64_t T = scores.size(-1);
  const Tensor is_future = at::ones({T, T}, at::kBool).triu(1);
  return scores.masked_fill(is_future, -std::numeric_limits<double>::infinity());
}

Tensor scaled_scores(const Tensor& q, const Tensor& k) {
  return (q / std::sqrt(static_cast<double>(q.size(-1)))).matmul(k.transpose(-2, -1));
}

Tensor attention(const Tensor& x, const Weights& weights, const std::string& at,
                 const TransformerParts& parts) {
  const Scope scope("attn");
  const int64_t B = x.size(0), T = x.size(1), D = kChannels / kHeads;
  const Tensor qkv = at::linear(x, weights[at + "attn.qkv.weight"], weights[at + "attn.qkv.bias"])
                         .view({B, T, 3, kHeads, D})
                         .permute({2, 0, 3, 1, 4});
  const Tensor q = qkv[0], k = qkv[1], v = qkv[2];
  const Tensor scores = parts.scores ? parts.scores(q, k) : scaled_scores(q, k);
  const Tensor masked = parts.mask ? parts.mask(scores) : causal(scores);
  const Tensor weight = parts.softmax ? parts.softmax(masked) : masked.softmax(-1);
  const Tensor mixed =
      weight.to(v.scalar_type()).matmul(v).transpose(1, 2).reshape({B, T, kChannels});
  return at::linear(mixed, weights[at + "attn.proj.weight"], weights[at + "attn.proj.bias"]);
}

Tensor block(const Tensor& x, const Weights& weights, int64_t number,
             const TransformerParts& parts) {
  const std::string at = "blocks." + std::to_string(number) + ".";
  const auto norm = [&](const Tensor& input, const std::string& name, bool is_planted) {
    const Scope scope(name);
    const Tensor &weight = weights[at + name + ".weight"], &bias = weights[at + name + ".bias"];
    if (is_planted && parts.norm) return parts.norm(input, weight, bias);
    return at::layer_norm(input, {kChannels}, weight, bias);
  };
  const auto residual = [&](const Tensor& stream, const Tensor& branch) {
    return parts.residual ? parts.residual(stream, branch) : stream + branch;
  };
  const Scope scope(at.substr(0, at.size() - 1));
  const Tensor mixed = residual(x, attention(norm(x, "ln1", true), weights, at, parts));
  const Tensor normed = norm(mixed, "ln2", false);
  const Scope mlp_scope("mlp");
  const Tensor hidden =
      at::linear(normed, weights[at + "mlp.fc.weight"], weights[at + "mlp.fc.bias"]);
  const Tensor active = parts.activation ? parts.activation(hidden) : at::gelu(hidden);
  const Tensor branch =
      at::linear(active, weights[at + "mlp.proj.weight"], weights[at + "mlp.proj.bias"]);
  return residual(mixed, branch);
}

Weights transformer_weights(const Setup& setup, const TransformerParts& parts) {
  Weights weights(setup);
  const int64_t C = kChannels;
  weights.add("wte", at::randn({kVocabulary, C}));
  weights.add("wpe", at::randn({parts.T, C}) * 0.1);
  for (int64_t n = 0; n < parts.blocks; ++n) {
    const std::string at = "blocks." + std::to_string(n) + ".";
    const auto add_linear = [&](const std::string& name, int64_t out, int64_t in) {
      weights.add_linear(at + name + ".weight", out, in);
      weights.add(at + name + ".bias", at::zeros({out}));
    };
    for (const char* name : {"ln1", "ln2"}) {
      weights.add(at + name + ".weight", at::ones({C}));
      weights.add(at + name + ".bias", at::zeros({C}));
    }
    add_linear("attn.qkv", 3 * C, C);
    add_linear("attn.proj", C, C);
    add_linear("mlp.fc", 4 * C, C);
    add_linear("mlp.proj", C, 4 * C);
  }
  weights.add("ln_f.weight", at::ones({C}));
  weights.add_linear("head.weight", kVocabulary, C);
  return weights;
}

}  // namespace

Setup half() { return {.dtype = at::kHalf}; }
Setup bfloat16() { return {.dtype = at::kBFloat16}; }
Setup autocast_half(double loss_scale) {
  return {.dtype = at::kHalf, .is_autocast = true, .loss_scale = loss_scale};
}
Setup with_micro_batches(Setup setup, int64_t micro_batches) {
  setup.micro_batches = micro_batches;
  return setup;
}
Setup with_checkpoint(Setup setup) {
  setup.is_checkpointed = true;
  return setup;
}

std::string to_string(const Setup& setup) {
  std::string text = setup.dtype == at::kHalf       ? "fp16"
                     : setup.dtype == at::kBFloat16 ? "bf16"
                     : setup.dtype == at::kDouble   ? "fp64"
                                                    : "fp32";
  if (setup.is_autocast) text += "_autocast";
  if (setup.micro_batches > 1) text += "_micro" + std::to_string(setup.micro_batches);
  if (setup.is_checkpointed) text += "_checkpoint";
  return text;
}

Tensor Model::parameter(const std::string& name) const { return find(parameters, name); }
Tensor Model::input(const std::string& name) const { return find(inputs, name); }

Patient make_patient(const Model& model, const Setup& setup) {
  Patient patient;
  patient.parameters = model.parameters;
  patient.buffers = model.buffers;
  patient.inputs = model.inputs;
  patient.step = [model, setup] {
    const int64_t n = setup.micro_batches;
    Tensor total;
    for (int64_t micro = 0; micro < n; ++micro) {
      std::vector<Tensor> batch;
      for (const auto& [name, tensor] : model.inputs) {
        const int64_t size = tensor.size(0) / n;
        batch.push_back(tensor.narrow(0, micro * size, size));
      }
      Tensor loss;
      {
        std::optional<Autocast> autocast;
        if (setup.is_autocast) autocast.emplace(at::kCPU, setup.dtype);
        loss = model.loss(batch);
      }
      (loss * (setup.loss_scale / static_cast<double>(n))).backward();
      const Tensor share = loss.detach() / static_cast<double>(n);
      total = total.defined() ? total + share : share;
    }
    if (model.update) {
      const at::NoGradGuard no_grad;
      model.update();
    }
    return total;
  };
  return patient;
}

Tensor cross_entropy(const Tensor& logits, const Tensor& targets) {
  return at::cross_entropy_loss(logits.to(at::kFloat), targets);
}

Model transformer(const Setup& setup, const TransformerParts& parts) {
  const Weights weights = transformer_weights(setup, parts);
  Model model;
  model.parameters = weights.named();
  model.inputs = {{"tokens", at::randint(0, kVocabulary, {parts.B, parts.T}, at::kLong)},
                  {"targets", at::randint(0, kVocabulary, {parts.B, parts.T}, at::kLong)}};
  TransformerParts plain;
  plain.residual = parts.planted_block < 0 ? parts.residual : Binary();
  model.loss = [weights, parts, plain, setup](const std::vector<Tensor>& batch) {
    Tensor x;
    {
      const Scope scope("embed");
      x = (parts.embedding ? parts.embedding(batch[0], weights["wte"])
                           : at::embedding(weights["wte"], batch[0])) +
          weights["wpe"];
    }
    for (int64_t n = 0; n < parts.blocks; ++n) {
      const bool is_planted = parts.planted_block < 0 || n == parts.planted_block;
      // By value: a checkpoint keeps its function until the backward pass.
      const auto run = [weights, n, here = is_planted ? parts : plain](
                           const std::vector<Tensor>& inputs) -> std::vector<Tensor> {
        return {block(inputs[0], weights, n, here)};
      };
      x = setup.is_checkpointed ? checkpoint(run, {x})[0] : run({x})[0];
    }
    {
      const Scope scope("ln_f");
      x = at::layer_norm(x, {kChannels}, weights["ln_f.weight"]);
    }
    Tensor logits;
    {
      const Scope scope("head");
      logits = at::linear(x, weights["head.weight"]);
    }
    const Scope scope("loss");
    const Tensor flat = logits.flatten(0, 1), targets = batch[1].flatten();
    return parts.loss ? parts.loss(flat, targets) : cross_entropy(flat, targets);
  };
  return model;
}

Model mlp(const Setup& setup, const MlpParts& parts) {
  Weights weights(setup);
  weights.add_linear("fc1.weight", 32, 16);
  weights.add("fc1.bias", at::zeros({32}));
  weights.add_linear("fc2.weight", 8, 32);
  weights.add("fc2.bias", at::zeros({8}));
  Model model;
  model.parameters = weights.named();
  model.inputs = {{"features", at::randn({8, 16}).to(weights.dtype())},
                  {"targets", at::randint(0, 8, {8}, at::kLong)}};
  model.loss = [weights, parts](const std::vector<Tensor>& batch) {
    Tensor x = batch[0];
    if (parts.input) {
      const Scope scope("input");
      x = parts.input(x);
    }
    {
      const Scope scope("fc1");
      x = at::linear(x, weights["fc1.weight"], weights["fc1.bias"]);
    }
    {
      const Scope scope("act");
      x = parts.activation ? parts.activation(x) : x.relu();
    }
    {
      const Scope scope("fc2");
      x = at::linear(x, weights["fc2.weight"], weights["fc2.bias"]);
    }
    const Scope scope("loss");
    return parts.loss ? parts.loss(x, batch[1]) : cross_entropy(x, batch[1]);
  };
  return model;
}

Model conv_net(const Setup& setup, const ConvNetParts& parts) {
  Weights weights(setup);
  weights.add("conv.weight", at::randn({8, 3, 3, 3}) / std::sqrt(27.0));
  weights.add("bn.weight", at::ones({8}));
  weights.add("bn.bias", at::zeros({8}));
  weights.add_linear("fc.weight", 8, 8);
  Model model;
  model.parameters = weights.named();
  const Tensor mean = at::zeros({8}, weights.dtype()), var = at::ones({8}, weights.dtype());
  model.buffers = {{"bn.running_mean", mean}, {"bn.running_var", var}};
  model.inputs = {{"images", at::randn({4, 3, 8, 8}).to(weights.dtype())},
                  {"targets", at::randint(0, 8, {4}, at::kLong)}};
  model.loss = [weights, parts, mean, var](const std::vector<Tensor>& batch) {
    Tensor x;
    {
      const Scope scope("conv");
      x = at::conv2d(batch[0], weights["conv.weight"], {}, 1, 1);
    }
    {
      const Scope scope("bn");
      x = parts.norm ? parts.norm(x)
                     : at::batch_norm(x, weights["bn.weight"], weights["bn.bias"], mean, var, false,
                                      0.1, 1e-5, false);
      x = x.relu();
    }
    {
      const Scope scope("pool");
      x = parts.pool ? parts.pool(x) : x.mean({2, 3});
    }
    {
      const Scope scope("fc");
      x = at::linear(x, weights["fc.weight"]);
    }
    const Scope scope("loss");
    return cross_entropy(x, batch[1]);
  };
  return model;
}

Model recurrent(const Setup& setup, const RecurrentParts& parts) {
  Weights weights(setup);
  weights.add_linear("cell.weight_x", 16, 8);
  weights.add_linear("cell.weight_h", 16, 16);
  weights.add("cell.bias", at::zeros({16}));
  weights.add_linear("head.weight", 8, 16);
  Model model;
  model.parameters = weights.named();
  model.inputs = {{"sequence", at::randn({4, 12, 8}).to(weights.dtype())},
                  {"targets", at::randint(0, 8, {4}, at::kLong)}};
  model.loss = [weights, parts](const std::vector<Tensor>& batch) {
    Tensor state = at::zeros({batch[0].size(0), 16}, batch[0].options());
    std::vector<Tensor> states;
    for (int64_t t = 0; t < batch[0].size(1); ++t) {
      const Scope scope("cell");
      state = at::linear(batch[0].select(1, t), weights["cell.weight_x"], weights["cell.bias"]) +
              at::linear(state, weights["cell.weight_h"]);
      state = parts.activation ? parts.activation(state) : state.tanh();
      states.push_back(state);
    }
    Tensor pooled;
    {
      const Scope scope("pool");
      pooled = parts.pool ? parts.pool(at::stack(states, 1)) : state;
    }
    Tensor logits;
    {
      const Scope scope("head");
      logits = at::linear(pooled, weights["head.weight"]);
    }
    const Scope scope("loss");
    return cross_entropy(logits, batch[1]);
  };
  return model;
}

}  // namespace mezzo::numerics::faults
