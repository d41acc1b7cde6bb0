// The state of AdamW by name: what a checkpoint reads and writes.
#include <set>

#include <fmt/ranges.h>

#include <ATen/core/grad_mode.h>

#include "mezzo/base/check.h"
#include "mezzo/optim/adamw.h"

namespace mezzo::optim {
namespace {

std::string name_of(const NamedParameters& named, const at::Tensor& param) {
  for (const auto& candidate : named) {
    if (candidate.value().unsafeGetTensorImpl() == param.unsafeGetTensorImpl()) {
      return candidate.key();
    }
  }
  mezzo::detail::fail<Error>(
      "AdamW.named_state",
      "every parameter must be named, but one of shape [{}] is not. Hint: pass the "
      "named_parameters() of the model that the optimizer was made for",
      fmt::join(param.sizes(), ", "));
}

void check_same_kind(const std::string& key, const at::Tensor& own, const at::Tensor& given) {
  MEZZO_CHECK(given.sizes() == own.sizes() && given.scalar_type() == own.scalar_type(),
              "AdamW.load_named_state", "\"{}\" must be {} [{}], but is {} [{}]", key,
              c10::toString(own.scalar_type()), fmt::join(own.sizes(), ", "),
              c10::toString(given.scalar_type()), fmt::join(given.sizes(), ", "));
}

}  // namespace

template <class F>
void AdamW::for_each_state(const NamedParameters& named, F&& f) {
  const at::NoGradGuard no_grad;
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const AdamWOptions&>(group.options());
    for (const at::Tensor& param : group.params()) {
      const std::string name = name_of(named, param);
      AdamState& state = state_of(param, options);
      f("step." + name, state.step);
      f("exp_avg." + name, state.exp_avg);
      f("exp_avg_sq." + name, state.exp_avg_sq);
      if (options.amsgrad()) {
        f("max_exp_avg_sq." + name, state.max_exp_avg_sq);
      }
    }
  }
}

std::map<std::string, at::Tensor> AdamW::named_state(const NamedParameters& named) {
  std::map<std::string, at::Tensor> state;
  for_each_state(named, [&](const std::string& key, at::Tensor& own) { state.emplace(key, own); });
  return state;
}

void AdamW::load_named_state(const NamedParameters& named,
                             const std::map<std::string, at::Tensor>& state) {
  std::set<std::string> known;
  for_each_state(named, [&](const std::string& key, at::Tensor& own) {
    const auto given = state.find(key);
    MEZZO_CHECK(given != state.end(), "AdamW.load_named_state",
                "the state must hold \"{}\", but does not. Hint: was it saved by another model or "
                "other optimizer options?",
                key);
    check_same_kind(key, own, given->second);
    known.insert(key);
  });
  for (const auto& [key, given] : state) {
    MEZZO_CHECK(known.contains(key), "AdamW.load_named_state",
                "the state must hold only this optimizer's, but holds \"{}\"", key);
  }
  for_each_state(named, [&](const std::string& key, at::Tensor& own) { own.copy_(state.at(key)); });
}

}  // namespace mezzo::optim
