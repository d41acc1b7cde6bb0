// The state and the weights of CompactAdamW by name: what a checkpoint reads and writes.
#include "mezzo/kernels/adamw/split_weights.h"
#include "mezzo/optim/compact_adamw.h"

namespace mezzo::optim {

template <class F>
void CompactAdamW::for_each(const NamedParameters& named, F&& f) {
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const CompactAdamWOptions&>(group.options());
    for (const at::Tensor& param : group.params()) {
      f(detail::name_of("CompactAdamW", named, param), param, state_of(param, options));
    }
  }
}

detail::KeyedTensors CompactAdamW::keyed_state(const NamedParameters& named) {
  detail::KeyedTensors keyed;
  for_each(named, [&](const std::string& name, const at::Tensor&, const CompactAdamWState& state) {
    const auto add = [&](const char* kind, const at::Tensor& tensor) {
      if (tensor.defined()) keyed.emplace_back(kind + name, tensor);
    };
    add("step.", state.step);
    add("exp_avg.", state.exp_avg);
    add("exp_avg_sq.", state.exp_avg_sq);
    add("exp_avg_scale.", state.exp_avg_scale);
    add("exp_avg_sq_scale.", state.exp_avg_sq_scale);
    add("remainder.", state.remainder);
  });
  return keyed;
}

std::map<std::string, at::Tensor> CompactAdamW::named_state(const NamedParameters& named) {
  const auto keyed = keyed_state(named);
  return {keyed.begin(), keyed.end()};
}

void CompactAdamW::load_named_state(const NamedParameters& named,
                                    const std::map<std::string, at::Tensor>& state) {
  detail::load_keyed("CompactAdamW.load_named_state", keyed_state(named), state);
}

std::map<std::string, at::Tensor> CompactAdamW::master_weights(const NamedParameters& named) {
  std::map<std::string, at::Tensor> masters;
  for_each(
      named, [&](const std::string& name, const at::Tensor& param, const CompactAdamWState& state) {
        masters[name] = state.remainder.defined()
                            ? kernels::join(param, state.remainder)
                            : param.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
      });
  return masters;
}

void CompactAdamW::load_master_weights(const NamedParameters& named,
                                       const std::map<std::string, at::Tensor>& masters) {
  // Into copies first, so that a refusal changes nothing.
  const auto loaded = master_weights(named);
  detail::load_keyed("CompactAdamW.load_master_weights", {loaded.begin(), loaded.end()}, masters);
  const at::NoGradGuard no_grad;
  for_each(named,
           [&](const std::string& name, const at::Tensor& param, const CompactAdamWState& state) {
             const at::Tensor& master = loaded.at(name);
             if (state.remainder.defined()) {
               const auto [high, remainder] = kernels::split(master);
               param.copy_(high);
               state.remainder.copy_(remainder);
             } else {
               param.copy_(master);
             }
           });
}

}  // namespace mezzo::optim
