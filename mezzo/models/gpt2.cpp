#include "mezzo/models/gpt2.h"

#include <cmath>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/ranges.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/embed/embed.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::models {
namespace {

ModelConfig validated(const ModelConfig& config) {
  validate(config);
  return config;
}

void check_tokens(std::string_view where, const at::Tensor& tokens, const ModelConfig& config) {
  MEZZO_CHECK(tokens.defined() && tokens.dim() == 2, where,
              "tokens must have the shape [B, T], but have [{}]",
              fmt::join(tokens.defined() ? tokens.sizes() : at::IntArrayRef{}, ", "));
  MEZZO_CHECK(tokens.scalar_type() == at::kLong, where, "tokens must be int64, but are {}",
              c10::toString(tokens.scalar_type()));
  MEZZO_CHECK(tokens.numel() > 0, where, "tokens must not be empty, but have the shape [{}]",
              fmt::join(tokens.sizes(), ", "));
  MEZZO_CHECK(tokens.size(1) <= config.context, where,
              "a sequence must be at most the context of {} tokens long, but is {}. Hint: cut it, "
              "or build the model with a larger context",
              config.context, tokens.size(1));
}

at::Tensor sum_of(const Residual& residual) {
  return residual.branch.defined() ? residual.x + residual.branch : residual.x;
}

/// The sum of the residual stream, and what `linear`, of the part `name`, makes of its norm.
std::tuple<at::Tensor, at::Tensor> norm_linear(std::string_view name, const Residual& in,
                                               LayerNorm& norm, Linear& linear,
                                               const BlockOps& ops) {
  if (!ops.is_fused) {
    const at::Tensor sum = sum_of(in), normed = norm(sum);
    const Scope scope(name);
    return {sum, linear(normed)};
  }
  const Scope scope(name);
  if (linear->is_fp8_for(in.x))
    return kernels::residual_norm_fp8_linear(
        in.x, optional(in.branch), norm->weight, optional(norm->bias), linear->weight,
        optional(linear->bias), LayerNormImpl::kEps, ops.recomputes, linear->fp8);
  return kernels::residual_norm_linear(in.x, optional(in.branch), norm->weight,
                                       optional(norm->bias), linear->weight, optional(linear->bias),
                                       LayerNormImpl::kEps, ops.recomputes);
}

}  // namespace

Recompute recompute_level(std::string_view name) {
  if (name == "none") return Recompute::kNone;
  if (name == "elementwise") return Recompute::kElementwise;
  if (name == "layer") return Recompute::kLayer;
  mezzo::detail::fail<UsageError>("recompute", "must be none, elementwise or layer, but is '{}'",
                                  name);
}

std::string fp8_refusal(const ModelConfig& config, at::Device device) {
  if (config.layers < 3)
    return fmt::format(
        "FP8 is for the blocks between the first and the last, and needs 3 layers or more, but "
        "there are {}. Hint: --precision lean",
        config.layers);
  if (config.width % kernels::kFp8Multiple != 0)
    return fmt::format("FP8 products take a width in multiples of {}, but it is {}",
                       kernels::kFp8Multiple, config.width);
  const std::string refusal = kernels::fp8_refusal(device);
  if (refusal.empty()) return "";
  return fmt::format(
      "FP8 products need a GPU of compute capability 8.9 or higher, or a CPU to emulate them, but "
      "this is {}. Hint: --precision lean",
      refusal);
}

CausalSelfAttentionImpl::CausalSelfAttentionImpl(const ModelConfig& config)
    : heads_(config.heads), dropout_(config.dropout) {
  c_attn = register_module("c_attn", Linear(config.width, 3 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(config.width, config.width, config.bias));
}

at::Tensor CausalSelfAttentionImpl::forward(const at::Tensor& qkv, const BlockOps& ops) {
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

MLPImpl::MLPImpl(const ModelConfig& config) {
  c_fc = register_module("c_fc", Linear(config.width, 4 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(4 * config.width, config.width, config.bias));
}

at::Tensor MLPImpl::forward(const at::Tensor& hidden, const BlockOps& ops) {
  const Scope scope("mlp");
  if (!ops.is_fused) return c_proj(at::gelu(hidden, "tanh"));
  if (c_proj->is_fp8_for(hidden))
    return kernels::gelu_fp8_linear(hidden, c_proj->weight, optional(c_proj->bias), ops.recomputes,
                                    c_proj->fp8);
  return kernels::gelu_linear(hidden, c_proj->weight, optional(c_proj->bias), ops.recomputes);
}

BlockImpl::BlockImpl(const ModelConfig& config) : dropout_(config.dropout) {
  ln_1 = register_module("ln_1", LayerNorm(config.width, config.bias));
  attn = register_module("attn", CausalSelfAttention(config));
  ln_2 = register_module("ln_2", LayerNorm(config.width, config.bias));
  mlp = register_module("mlp", MLP(config));
}

Residual BlockImpl::forward(const Residual& in) {
  const auto [middle, qkv] = norm_linear("attn", in, ln_1, attn->c_attn, ops);
  const at::Tensor attended = at::dropout(attn(qkv, ops), dropout_, is_training());
  const auto [out, hidden] = norm_linear("mlp", {middle, attended}, ln_2, mlp->c_fc, ops);
  return {out, at::dropout(mlp(hidden, ops), dropout_, is_training())};
}

GPT2Impl::GPT2Impl(const ModelConfig& config, uint64_t seed) : config_(validated(config)) {
  wte = register_module("wte", Embedding(config.vocab_size, config.width));
  wpe = register_module("wpe", Embedding(config.context, config.width));
  h = register_module("h", torch::nn::ModuleList());
  for (int64_t i = 0; i < config.layers; ++i) {
    h->push_back(Block(config));
  }
  ln_f = register_module("ln_f", LayerNorm(config.width, config.bias));
  initialize(seed);
}

void GPT2Impl::initialize(uint64_t seed) {
  const at::NoGradGuard no_grad;
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  constexpr double kStd = 0.02;
  // The residual stream sums 2 * layers branches: their share of its variance stays that of one.
  const double branch_std = kStd / std::sqrt(2.0 * static_cast<double>(config_.layers));
  for (auto& parameter : named_parameters()) {
    at::Tensor& value = parameter.value();
    if (value.dim() >= 2) {
      // Drawn on the CPU wherever the model lives: one seed means one model.
      const bool ends_branch = parameter.key().ends_with("c_proj.weight");
      value.copy_(at::empty_like(value, value.options().device(at::kCPU))
                      .normal_(0.0, ends_branch ? branch_std : kStd, generator));
    } else {
      value.fill_(parameter.key().ends_with("bias") ? 0.0 : 1.0);
    }
  }
}

void GPT2Impl::set_fused(bool is_fused) {
  is_fused_ = is_fused;
  for (const auto& block : *h) block->as<BlockImpl>()->ops.is_fused = is_fused;
}

void GPT2Impl::set_recompute(Recompute level, Checkpoint checkpoint) {
  MEZZO_CHECK_USAGE(level != Recompute::kLayer || checkpoint != nullptr, "GPT2.set_recompute",
                    "kLayer needs a function that checkpoints. Hint: mezzo::checkpoint");
  checkpoint_ = level == Recompute::kLayer ? std::move(checkpoint) : nullptr;
  for (const auto& block : *h) block->as<BlockImpl>()->ops.recomputes = level != Recompute::kNone;
}

// The first and the last block, whose errors weigh most, stay in 16 bits: as Megatron-LM's option
// first_last_layers_bf16 has it.
std::vector<std::pair<std::string, Linear>> GPT2Impl::inner_linears() const {
  std::vector<std::pair<std::string, Linear>> linears;
  for (size_t i = 1; i + 1 < h->size(); ++i) {
    const auto block = h->ptr<BlockImpl>(i);
    for (const auto& [name, linear] : {std::pair("attn.c_attn", block->attn->c_attn),
                                       {"attn.c_proj", block->attn->c_proj},
                                       {"mlp.c_fc", block->mlp->c_fc},
                                       {"mlp.c_proj", block->mlp->c_proj}})
      linears.emplace_back(fmt::format("h.{}.{}", i, name), linear);
  }
  return linears;
}

void GPT2Impl::set_fp8(const std::optional<kernels::Fp8Scaling>& scaling) {
  if (scaling.has_value()) {
    const std::string refusal = fp8_refusal(config_, wte->weight.device());
    MEZZO_CHECK_USAGE(refusal.empty(), "GPT2.set_fp8", "{}", refusal);
  }
  for (auto& [name, linear] : inner_linears())
    linear->fp8 = scaling.has_value() ? std::make_shared<kernels::Fp8Recipe>(*scaling) : nullptr;
}

std::map<std::string, kernels::Fp8Caster*> GPT2Impl::fp8_casters() const {
  std::map<std::string, kernels::Fp8Caster*> casters;
  for (const auto& [name, linear] : inner_linears()) {
    if (linear->fp8 == nullptr) continue;
    casters[name + ".x"] = &linear->fp8->x;
    casters[name + ".weight"] = &linear->fp8->weight;
    casters[name + ".grad"] = &linear->fp8->grad;
  }
  return casters;
}

std::map<std::string, at::Tensor> GPT2Impl::fp8_histories() const {
  std::map<std::string, at::Tensor> histories;
  for (const auto& [name, caster] : fp8_casters()) {
    const kernels::AmaxHistory& history = caster->history();
    if (history.amaxes.defined())
      histories[name] = at::cat({history.amaxes, history.latest.view({1})});
  }
  return histories;
}

void GPT2Impl::set_fp8_histories(const std::map<std::string, at::Tensor>& histories) {
  const std::map<std::string, kernels::Fp8Caster*> casters = fp8_casters();
  for (const auto& [name, history] : histories) {
    MEZZO_CHECK(casters.contains(name), "GPT2.set_fp8_histories",
                "nothing of this model is cast to FP8 as {}", name);
    MEZZO_CHECK(history.dim() == 1 && history.numel() > 0 && history.scalar_type() == at::kFloat,
                "GPT2.set_fp8_histories",
                "{} must be amaxes and the latest in fp32, but is [{}] in {}", name,
                fmt::join(history.sizes(), ", "), c10::toString(history.scalar_type()));
  }
  for (const auto& [name, caster] : casters) {
    const auto found = histories.find(name);
    if (found == histories.end()) {
      if (caster->history().amaxes.defined()) caster->set_history({});
      continue;
    }
    const at::Tensor history = found->second.to(wte->weight.device());
    const int64_t H = history.numel() - 1;
    caster->set_history({history.narrow(0, 0, H), history.select(0, H)});
  }
}

Residual GPT2Impl::run_block(size_t i, const Residual& in) {
  auto* block = h[i]->as<BlockImpl>();
  const Scope scope(fmt::format("h.{}", i));
  if (checkpoint_ == nullptr) return block->forward(in);
  const auto run = [block](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    const Residual out = block->forward({inputs[0], inputs.size() > 1 ? inputs[1] : at::Tensor()});
    return {out.x, out.branch};
  };
  std::vector<at::Tensor> inputs = {in.x};
  if (in.branch.defined()) inputs.push_back(in.branch);
  const bool draws = is_training() && config_.dropout > 0.0;
  const std::vector<at::Tensor> outputs = checkpoint_(run, inputs, draws);
  return {outputs[0], outputs[1]};
}

// is_tied: the head will add its own gradient to that of the token embedding.
at::Tensor GPT2Impl::embedded(const at::Tensor& tokens, bool is_tied) const {
  const at::ScalarType dtype = ln_f->weight.scalar_type();
  if (is_fused_ && dtype != at::kDouble)
    return kernels::embed(tokens, wte->weight, wpe->weight, dtype, is_tied);
  return at::embedding(wte->weight, tokens) + wpe->weight.slice(0, 0, tokens.size(1));
}

at::Tensor GPT2Impl::features(const at::Tensor& tokens, bool is_tied) {
  check_tokens("GPT2.forward", tokens, config_);
  Residual stream{at::dropout(embedded(tokens, is_tied), config_.dropout, is_training()), {}};
  for (size_t i = 0; i < h->size(); ++i) stream = run_block(i, stream);
  return ln_f(sum_of(stream));
}

at::Tensor GPT2Impl::features(const at::Tensor& tokens) {
  return features(tokens, /*is_tied=*/false);
}

at::Tensor GPT2Impl::head(const at::Tensor& features) {
  const Scope scope("head");
  return at::linear(features, wte->weight);
}

at::Tensor GPT2Impl::forward(const at::Tensor& tokens) { return head(features(tokens)); }

at::Tensor GPT2Impl::loss(const at::Tensor& tokens, const at::Tensor& targets) {
  check_tokens("GPT2.loss", tokens, config_);
  MEZZO_CHECK(targets.defined() && targets.sizes() == tokens.sizes(), "GPT2.loss",
              "targets must have the shape of tokens, [{}], but have [{}]",
              fmt::join(tokens.sizes(), ", "),
              fmt::join(targets.defined() ? targets.sizes() : at::IntArrayRef{}, ", "));
  MEZZO_CHECK(targets.scalar_type() == at::kLong, "GPT2.loss", "targets must be int64, but are {}",
              c10::toString(targets.scalar_type()));
  if (is_fused_) {
    const at::Tensor x = features(tokens, /*is_tied=*/true);
    const Scope scope("head");
    return kernels::linear_cross_entropy(x, wte->weight, targets);
  }
  const auto logits = forward(tokens);
  return at::cross_entropy_loss(logits.view({-1, config_.vocab_size}), targets.reshape({-1}));
}

}  // namespace mezzo::models
