#include "mezzo/train/run_optimizer.h"

#include <algorithm>
#include <string_view>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/optim/parameter_groups.h"

namespace mezzo::train {
namespace {

optim::CompactAdamWOptions compact_options(const optim::AdamWOptions& options,
                                           const PrecisionMode& mode, bool splits) {
  optim::CompactAdamWOptions compact(options.lr());
  compact.betas(options.betas())
      .eps(options.eps())
      .weight_decay(options.weight_decay())
      .split_weights(mode.splits_weights && splits)
      .moment_bits(mode.moment_bits);
  return compact;
}

// Embeddings have moments of 32 bits in every mode: a row that comes seldom shares its block of an
// 8-bit format with rows that come often (Dettmers et al., arXiv 2110.02861, section 2.3).
std::vector<torch::optim::OptimizerParamGroup> groups_with_wide_embeddings(
    models::LanguageModel model, const optim::CompactAdamWOptions& options) {
  auto groups = optim::decay_groups(model->named_parameters(), options);
  torch::optim::OptimizerParamGroup embeddings({}, groups.front().options().clone());
  static_cast<optim::CompactAdamWOptions&>(embeddings.options()).moment_bits(32);
  const std::vector<at::Tensor> tables = model->embeddings();
  std::vector<at::Tensor> matrices;
  for (const at::Tensor& param : groups.front().params()) {
    const bool is_embedding = std::any_of(tables.begin(), tables.end(),
                                          [&](const auto& table) { return table.is_same(param); });
    (is_embedding ? embeddings.params() : matrices).push_back(param);
  }
  groups.front().params() = matrices;
  groups.push_back(embeddings);
  return groups;
}

template <class Load>
void fitting(const std::string& source, Load load) {
  try {
    load();
  } catch (const Error& error) {
    mezzo::detail::fail<Error>("checkpoint", "{} does not fit the run: {}", source, error.what());
  }
}

}  // namespace

RunOptimizer::RunOptimizer(models::LanguageModel model, const PrecisionMode& mode,
                           const optim::AdamWOptions& options, bool accumulates)
    : model_(model) {
  const at::Tensor first = model->parameters().front();
  const bool splits = first.is_cpu() || (kernels::kHasCuda && first.is_cuda());
  if (mode.splits_weights || mode.moment_bits == 8) {
    const auto compact = compact_options(options, mode, splits);
    auto made =
        std::make_unique<optim::CompactAdamW>(groups_with_wide_embeddings(model, compact), compact);
    compact_ = made.get();
    scaled_step_ = made.get();
    optimizer_ = std::move(made);
    if (accumulates)
      for (const at::Tensor& param : model->parameters()) param.set_grad_dtype(at::kFloat);
  } else {
    auto made = std::make_unique<optim::AdamW>(
        optim::decay_groups(model->named_parameters(), options), options);
    plain_ = made.get();
    scaled_step_ = made.get();
    optimizer_ = std::move(made);
  }
}

void RunOptimizer::set_lr(double lr) {
  optim::set_lr(*optimizer_, lr);
  if (lr_.defined()) lr_.fill_(lr);
}

void RunOptimizer::keep_lr_on_device() {
  lr_ =
      at::zeros({}, model_->parameters().front().options().dtype(at::kFloat).requires_grad(false));
  if (compact_ != nullptr) {
    compact_->set_lr_tensor(lr_);
  } else {
    plain_->set_lr_tensor(lr_);
  }
}

std::vector<at::Tensor> RunOptimizer::state_tensors() const {
  if (compact_ != nullptr) return compact_->state_tensors();
  std::vector<at::Tensor> tensors;
  for (const auto& [parameter, state] : plain_->state()) {
    const auto& adam = static_cast<const optim::AdamState&>(*state);
    tensors.insert(tensors.end(), {adam.step, adam.exp_avg, adam.exp_avg_sq, adam.max_exp_avg_sq});
  }
  return tensors;
}

std::map<std::string, at::Tensor> RunOptimizer::weights() const {
  if (compact_ != nullptr) return compact_->master_weights(model_->named_parameters());
  return model_weights();
}

std::map<std::string, at::Tensor> RunOptimizer::model_weights() const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : model_->named_parameters()) tensors[item.key()] = item.value().detach();
  return tensors;
}

std::map<std::string, at::Tensor> RunOptimizer::remainders() const {
  constexpr std::string_view kKind = "remainder.";
  std::map<std::string, at::Tensor> tensors;
  if (compact_ == nullptr) return tensors;
  for (const auto& [key, tensor] : state())
    if (key.starts_with(kKind)) tensors[key.substr(kKind.size())] = tensor;
  return tensors;
}

std::map<std::string, at::Tensor> RunOptimizer::state() const {
  const auto named = model_->named_parameters();
  return compact_ != nullptr ? compact_->named_state(named) : plain_->named_state(named);
}

void RunOptimizer::load(const std::map<std::string, at::Tensor>& weights,
                        const std::map<std::string, at::Tensor>& state, const std::string& source) {
  load_state(state, source);
  load_weights(weights, source);
}

void RunOptimizer::load_state(const std::map<std::string, at::Tensor>& state,
                              const std::string& source) {
  const auto named = model_->named_parameters();
  fitting(source, [&] {
    compact_ != nullptr ? compact_->load_named_state(named, state)
                        : plain_->load_named_state(named, state);
  });
}

void RunOptimizer::load_weights(const std::map<std::string, at::Tensor>& weights,
                                const std::string& source) {
  if (compact_ != nullptr) {
    fitting(source, [&] { compact_->load_master_weights(model_->named_parameters(), weights); });
  } else {
    load_parameters(model_, weights, source);
  }
}

void load_parameters(models::LanguageModel model, const std::map<std::string, at::Tensor>& tensors,
                     const std::string& source) {
  const auto parameters = model->named_parameters();
  MEZZO_CHECK(tensors.size() == parameters.size(), "checkpoint",
              "{} holds {} tensors, but the model has {} parameters", source, tensors.size(),
              parameters.size());
  for (const auto& item : parameters) {
    const auto found = tensors.find(item.key());
    MEZZO_CHECK(found != tensors.end() && found->second.sizes() == item.value().sizes() &&
                    found->second.scalar_type() == item.value().scalar_type(),
                "checkpoint", "{} does not fit the model at {}", source, item.key());
  }
  at::NoGradGuard no_grad;
  for (const auto& item : parameters) item.value().copy_(tensors.at(item.key()));
}

}  // namespace mezzo::train
