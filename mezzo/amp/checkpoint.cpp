#include "mezzo/amp/checkpoint.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/base/check.h"
#include "mezzo/base/random_state.h"
#include "mezzo/base/scope.h"

namespace mezzo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kCall = "mezzo.checkpoint.call";

/// Autocast on one type of device as it is now.
struct Region {
  explicit Region(c10::DeviceType type)
      : device(type),
        dtype(at::autocast::get_autocast_dtype(type)),
        enabled(at::autocast::is_autocast_enabled(type)),
        cache_enabled(at::autocast::is_autocast_cache_enabled()) {}
  c10::DeviceType device;
  at::ScalarType dtype;
  bool enabled, cache_enabled;
};

Autocast entered(const Region& region) {
  return Autocast(region.device, region.dtype, region.enabled, region.cache_enabled);
}

/// The function, and what it sees around itself now: on a CPU, and on its device if that is
/// another.
struct Call : torch::CustomClassHolder {
  Call(const CheckpointFunction& the_function, at::Device the_device, bool preserves_random)
      : function(the_function), device(the_device) {
    if (preserves_random) random.emplace(device);
  }
  CheckpointFunction function;
  at::Device device;
  Region on_cpu{at::kCPU};
  Region on_device{device.type()};
  std::string scope = Scope::path();
  std::shared_ptr<const CastPolicy> policy = guarded_policy();  // null: none was set
  std::optional<RandomState> random;                            // none: numbers as they come
};

/// Draws what the forward pass drew, and then leaves the generators as it found them.
class SameRandom {
 public:
  SameRandom(at::Device device, const RandomState& drawn) : now_(device) { drawn.restore(); }
  ~SameRandom() { now_.restore(); }
  SameRandom(const SameRandom&) = delete;
  SameRandom& operator=(const SameRandom&) = delete;

 private:
  RandomState now_;
};

std::vector<at::Tensor> run_again(const Call& call, const std::vector<at::Tensor>& inputs) {
  std::optional<SameRandom> random;
  if (call.random.has_value()) random.emplace(call.device, *call.random);
  const ScopePath scope(call.scope);
  const CastPolicyGuard policy(call.policy);
  const Autocast on_cpu = entered(call.on_cpu), on_device = entered(call.on_device);
  const at::AutoGradMode with_grad(true);
  return call.function(inputs);
}

// Of the first input that is not on a CPU: beside it lie masks and indices.
at::Device device_of(const std::vector<at::Tensor>& inputs) {
  for (const at::Tensor& input : inputs) {
    if (!input.is_cpu()) return input.device();
  }
  return at::kCPU;
}

class Checkpoint : public torch::autograd::Function<Checkpoint> {
 public:
  static variable_list forward(AutogradContext* ctx, const c10::intrusive_ptr<Call>& call,
                               at::TensorList inputs) {
    ctx->saved_data[kCall] = c10::IValue::make_capsule(call);
    ctx->save_for_backward(inputs.vec());
    return call->function(inputs.vec());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    MEZZO_CHECK(!at::GradMode::is_enabled(), "checkpoint",
                "a checkpointed part cannot be differentiated twice. Hint: do not checkpoint it");
    MEZZO_CHECK(
        torch::autograd::Engine::get_default_engine().is_checkpoint_valid(), "checkpoint",
        "a checkpointed part needs backward() without `inputs`, for it adds to the gradients "
        "of the parameters inside. Hint: for grad() or backward(..., inputs) do not "
        "checkpoint it");
    const auto call = c10::static_intrusive_pointer_cast<Call>(ctx->saved_data[kCall].toCapsule());
    variable_list inputs;
    for (const at::Tensor& saved : ctx->get_saved_variables())
      inputs.push_back(saved.detach().set_requires_grad(saved.requires_grad()));
    // Differentiated out of its region, as other parts are: an op's backward runs in the dtype of
    // its forward.
    const variable_list outputs = run_again(*call, inputs);
    variable_list roots, root_grads;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad() || !grads[i].defined()) continue;
      roots.push_back(outputs[i]);
      root_grads.push_back(grads[i]);
    }
    torch::autograd::backward(roots, root_grads);
    variable_list input_grads = {at::Tensor()};  // of the call
    for (const at::Tensor& input : inputs) input_grads.push_back(input.grad());
    return input_grads;
  }
};

bool is_differentiable(const at::Tensor& tensor) { return tensor.requires_grad(); }

}  // namespace

std::vector<at::Tensor> checkpoint(const CheckpointFunction& function,
                                   const std::vector<at::Tensor>& inputs, bool preserves_random) {
  if (!at::GradMode::is_enabled()) return function(inputs);
  MEZZO_CHECK(std::any_of(inputs.begin(), inputs.end(), is_differentiable), "checkpoint",
              "none of the {} inputs requires grad, so that the parameters inside would get no "
              "gradient. Hint: checkpoint a part whose input comes out of one that is trained",
              inputs.size());
  return Checkpoint::apply(c10::make_intrusive<Call>(function, device_of(inputs), preserves_random),
                           at::TensorList(inputs));
}

}  // namespace mezzo
