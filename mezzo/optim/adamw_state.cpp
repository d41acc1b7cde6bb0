// The state of AdamW by name: what a checkpoint reads and writes.
#include "mezzo/optim/adamw.h"

namespace mezzo::optim {

detail::KeyedTensors AdamW::keyed_state(const NamedParameters& named) {
  detail::KeyedTensors keyed;
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const AdamWOptions&>(group.options());
    for (const at::Tensor& param : group.params()) {
      const std::string name = detail::name_of("AdamW.named_state", named, param);
      const AdamState& state = state_of(param, options);
      keyed.emplace_back("step." + name, state.step);
      keyed.emplace_back("exp_avg." + name, state.exp_avg);
      keyed.emplace_back("exp_avg_sq." + name, state.exp_avg_sq);
      if (options.amsgrad()) {
        keyed.emplace_back("max_exp_avg_sq." + name, state.max_exp_avg_sq);
      }
    }
  }
  return keyed;
}

std::map<std::string, at::Tensor> AdamW::named_state(const NamedParameters& named) {
  const auto keyed = keyed_state(named);
  return {keyed.begin(), keyed.end()};
}

void AdamW::load_named_state(const NamedParameters& named,
                             const std::map<std::string, at::Tensor>& state) {
  detail::load_keyed("AdamW.load_named_state", keyed_state(named), state);
}

}  // namespace mezzo::optim
