#include "mezzo/models/gpt2.h"

#include <cmath>
#include <optional>
#include <string_view>

#include <fmt/ranges.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scope.h"

namespace mezzo::models {
namespace {

GPT2Config validated(const GPT2Config& config) {
  validate(config);
  return config;
}

void check_tokens(std::string_view where, const at::Tensor& tokens, const GPT2Config& config) {
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

}  // namespace

CausalSelfAttentionImpl::CausalSelfAttentionImpl(const GPT2Config& config)
    : heads_(config.heads), dropout_(config.dropout) {
  c_attn = register_module("c_attn", Linear(config.width, 3 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(config.width, config.width, config.bias));
}

at::Tensor CausalSelfAttentionImpl::forward(const at::Tensor& x) {
  const Scope scope("attn");
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2);
  // split's backward is one concatenation; indexing's would fill three tensors with zeros first.
  const auto qkv = c_attn(x).split(C, /*dim=*/2);
  const auto by_head = [&](const at::Tensor& t) {
    return t.view({B, T, heads_, C / heads_}).transpose(1, 2);
  };
  const auto y = at::scaled_dot_product_attention(
      by_head(qkv[0]), by_head(qkv[1]), by_head(qkv[2]), /*attn_mask=*/std::nullopt,
      is_training() ? dropout_ : 0.0, /*is_causal=*/true);
  return c_proj(y.transpose(1, 2).reshape({B, T, C}));
}

MLPImpl::MLPImpl(const GPT2Config& config) {
  c_fc = register_module("c_fc", Linear(config.width, 4 * config.width, config.bias));
  c_proj = register_module("c_proj", Linear(4 * config.width, config.width, config.bias));
}

at::Tensor MLPImpl::forward(const at::Tensor& x) {
  const Scope scope("mlp");
  return c_proj(at::gelu(c_fc(x), "tanh"));
}

BlockImpl::BlockImpl(const GPT2Config& config) : dropout_(config.dropout) {
  ln_1 = register_module("ln_1", LayerNorm(config.width, config.bias));
  attn = register_module("attn", CausalSelfAttention(config));
  ln_2 = register_module("ln_2", LayerNorm(config.width, config.bias));
  mlp = register_module("mlp", MLP(config));
}

at::Tensor BlockImpl::forward(const at::Tensor& x) {
  const auto y = x + at::dropout(attn(ln_1(x)), dropout_, is_training());
  return y + at::dropout(mlp(ln_2(y)), dropout_, is_training());
}

GPT2Impl::GPT2Impl(const GPT2Config& config, uint64_t seed) : config_(validated(config)) {
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

at::Tensor GPT2Impl::features(const at::Tensor& tokens) {
  check_tokens("GPT2.forward", tokens, config_);
  const auto positions = wpe->weight.slice(0, 0, tokens.size(1));
  auto x = at::dropout(wte(tokens) + positions, config_.dropout, is_training());
  for (size_t i = 0; i < h->size(); ++i) {
    const Scope scope(fmt::format("h.{}", i));
    x = h[i]->as<BlockImpl>()->forward(x);
  }
  return ln_f(x);
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
  const auto logits = forward(tokens);
  return at::cross_entropy_loss(logits.view({-1, config_.vocab_size}), targets.reshape({-1}));
}

}  // namespace mezzo::models
