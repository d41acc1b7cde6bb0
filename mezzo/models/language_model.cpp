#include "mezzo/models/language_model.h"

#include <cmath>
#include <utility>

#include <fmt/ranges.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::models {
namespace {

ModelConfig validated(const ModelConfig& config, Family family) {
  MEZZO_CHECK_USAGE(config.family == family, "ModelConfig", "family must be {}, but is {}",
                    name_of(family), name_of(config.family));
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

/// What each product of a block has as a size, by its name.
std::vector<std::pair<std::string_view, int64_t>> sizes_of_products(const ModelConfig& config) {
  if (config.family == Family::kGPT2) return {{"a width", config.width}};
  const int64_t rows = (config.heads + 2 * config.kv_heads) * (config.width / config.heads);
  return {{"a width", config.width},
          {"an MLP's width", config.mlp_width},
          {"rows of queries, keys and values", rows}};
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
  for (const auto& [size, value] : sizes_of_products(config))
    if (value % kernels::kFp8Multiple != 0)
      return fmt::format("FP8 products take {} in multiples of {}, but it is {}", size,
                         kernels::kFp8Multiple, value);
  const std::string refusal = kernels::fp8_refusal(device);
  if (refusal.empty()) return "";
  return fmt::format(
      "FP8 products need a GPU of compute capability 8.9 or higher, or a CPU to emulate them, but "
      "this is {}. Hint: --precision lean",
      refusal);
}

LanguageModelImpl::LanguageModelImpl(const ModelConfig& config, Family family)
    : config_(validated(config, family)) {}

void LanguageModelImpl::add_block(const std::string& name, std::shared_ptr<DecoderBlock> block) {
  blocks_.push_back({name, std::move(block)});
}

void LanguageModelImpl::initialize(uint64_t seed) {
  const at::NoGradGuard no_grad;
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  constexpr double kStd = 0.02;
  // The residual stream sums 2 * layers branches: their share of its variance stays that of one.
  const double branch_std = kStd / std::sqrt(2.0 * static_cast<double>(config_.layers));
  for (auto& parameter : named_parameters()) {
    at::Tensor& value = parameter.value();
    if (value.dim() >= 2) {
      // Drawn on the CPU wherever the model lives: one seed means one model.
      const double std = ends_branch(parameter.key()) ? branch_std : kStd;
      value.copy_(
          at::empty_like(value, value.options().device(at::kCPU)).normal_(0.0, std, generator));
    } else {
      value.fill_(parameter.key().ends_with("bias") ? 0.0 : 1.0);
    }
  }
}

void LanguageModelImpl::set_fused(bool is_fused) {
  is_fused_ = is_fused;
  for (const Named& named : blocks_) named.block->ops.is_fused = is_fused;
}

void LanguageModelImpl::set_recompute(Recompute level, Checkpoint checkpoint) {
  MEZZO_CHECK_USAGE(level != Recompute::kLayer || checkpoint != nullptr,
                    "LanguageModel.set_recompute",
                    "kLayer needs a function that checkpoints. Hint: mezzo::checkpoint");
  checkpoint_ = level == Recompute::kLayer ? std::move(checkpoint) : nullptr;
  for (const Named& named : blocks_) named.block->ops.recomputes = level != Recompute::kNone;
}

// The first and the last block, whose errors weigh most, stay in 16 bits: as Megatron-LM's option
// first_last_layers_bf16 has it.
std::vector<std::pair<std::string, Linear>> LanguageModelImpl::inner_linears() const {
  std::vector<std::pair<std::string, Linear>> linears;
  for (size_t i = 1; i + 1 < blocks_.size(); ++i)
    for (const auto& [name, linear] : blocks_[i].block->linears())
      linears.emplace_back(fmt::format("{}.{}", blocks_[i].name, name), linear);
  return linears;
}

void LanguageModelImpl::set_fp8(const std::optional<kernels::Fp8Scaling>& scaling) {
  if (scaling.has_value()) {
    const std::string refusal = fp8_refusal(config_, device());
    MEZZO_CHECK_USAGE(refusal.empty(), "LanguageModel.set_fp8", "{}", refusal);
  }
  for (auto& [name, linear] : inner_linears())
    linear->fp8 = scaling.has_value() ? std::make_shared<kernels::Fp8Recipe>(*scaling) : nullptr;
}

std::map<std::string, kernels::Fp8Caster*> LanguageModelImpl::fp8_casters() const {
  std::map<std::string, kernels::Fp8Caster*> casters;
  for (const auto& [name, linear] : inner_linears()) {
    if (linear->fp8 == nullptr) continue;
    casters[name + ".x"] = &linear->fp8->x;
    casters[name + ".weight"] = &linear->fp8->weight;
    casters[name + ".grad"] = &linear->fp8->grad;
  }
  return casters;
}

std::map<std::string, at::Tensor> LanguageModelImpl::fp8_histories() const {
  std::map<std::string, at::Tensor> histories;
  for (const auto& [name, caster] : fp8_casters()) {
    const kernels::AmaxHistory& history = caster->history();
    if (history.amaxes.defined())
      histories[name] = at::cat({history.amaxes, history.latest.view({1})});
  }
  return histories;
}

void LanguageModelImpl::set_fp8_histories(const std::map<std::string, at::Tensor>& histories) {
  const std::map<std::string, kernels::Fp8Caster*> casters = fp8_casters();
  for (const auto& [name, history] : histories) {
    MEZZO_CHECK(casters.contains(name), "LanguageModel.set_fp8_histories",
                "nothing of this model is cast to FP8 as {}", name);
    MEZZO_CHECK(history.dim() == 1 && history.numel() > 0 && history.scalar_type() == at::kFloat,
                "LanguageModel.set_fp8_histories",
                "{} must be amaxes and the latest in fp32, but is [{}] in {}", name,
                fmt::join(history.sizes(), ", "), c10::toString(history.scalar_type()));
  }
  for (const auto& [name, caster] : casters) {
    const auto found = histories.find(name);
    if (found == histories.end()) {
      if (caster->history().amaxes.defined()) caster->set_history({});
      continue;
    }
    const at::Tensor history = found->second.to(device());
    const int64_t H = history.numel() - 1;
    caster->set_history({history.narrow(0, 0, H), history.select(0, H)});
  }
}

Residual LanguageModelImpl::run(const Named& named, const Residual& in) {
  const Scope scope(named.name);
  if (checkpoint_ == nullptr) return named.block->forward(in);
  const auto run =
      [block = named.block](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    const Residual out = block->forward({inputs[0], inputs.size() > 1 ? inputs[1] : at::Tensor()});
    return {out.x, out.branch};
  };
  std::vector<at::Tensor> inputs = {in.x};
  if (in.branch.defined()) inputs.push_back(in.branch);
  const bool draws = is_training() && config_.dropout > 0.0;
  const std::vector<at::Tensor> outputs = checkpoint_(run, inputs, draws);
  return {outputs[0], outputs[1]};
}

at::Tensor LanguageModelImpl::features(const at::Tensor& tokens, bool will_meet_head) {
  check_tokens("LanguageModel.forward", tokens, config_);
  Residual stream{at::dropout(embedded(tokens, will_meet_head), config_.dropout, is_training()),
                  {}};
  for (const Named& named : blocks_) stream = run(named, stream);
  return final_norm(stream.sum());
}

at::Tensor LanguageModelImpl::features(const at::Tensor& tokens) {
  return features(tokens, /*will_meet_head=*/false);
}

at::Tensor LanguageModelImpl::head(const at::Tensor& features) {
  const Scope scope("head");
  return at::linear(features, head_weight());
}

at::Tensor LanguageModelImpl::forward(const at::Tensor& tokens) { return head(features(tokens)); }

at::Tensor LanguageModelImpl::loss(const at::Tensor& tokens, const at::Tensor& targets) {
  check_tokens("LanguageModel.loss", tokens, config_);
  MEZZO_CHECK(targets.defined() && targets.sizes() == tokens.sizes(), "LanguageModel.loss",
              "targets must have the shape of tokens, [{}], but have [{}]",
              fmt::join(tokens.sizes(), ", "),
              fmt::join(targets.defined() ? targets.sizes() : at::IntArrayRef{}, ", "));
  MEZZO_CHECK(targets.scalar_type() == at::kLong, "LanguageModel.loss",
              "targets must be int64, but are {}", c10::toString(targets.scalar_type()));
  if (is_fused_) {
    const at::Tensor x = features(tokens, /*will_meet_head=*/true);
    const Scope scope("head");
    return kernels::linear_cross_entropy(x, head_weight(), targets);
  }
  const auto logits = forward(tokens);
  return at::cross_entropy_loss(logits.view({-1, config_.vocab_size}), targets.reshape({-1}));
}

}  // namespace mezzo::models
