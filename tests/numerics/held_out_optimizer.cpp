// Held-out faults of what a step does with its gradients.

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adam.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

std::vector<Tensor> trained(const Model& model) {
  std::vector<Tensor> tensors;
  for (const auto& [name, parameter] : model.parameters) tensors.push_back(parameter);
  return tensors;
}

/// The moments of Adam by hand, of the dtype of the parameters, as buffers.
struct Moments {
  Tensor parameter, first, second;
};
std::vector<Moments> add_moments(Model& model) {
  std::vector<Moments> all;
  for (const auto& [name, parameter] : model.parameters) {
    all.push_back(
        {parameter, at::zeros_like(parameter.detach()), at::zeros_like(parameter.detach())});
    model.buffers.emplace_back("exp_avg." + name, all.back().first);
    model.buffers.emplace_back("exp_avg_sq." + name, all.back().second);
  }
  return all;
}

void adam(const Moments& of, double eps) {
  const Tensor& gradient = of.parameter.grad();
  of.first.mul_(0.9).add_(gradient, 0.1);
  of.second.mul_(0.999).add_(gradient.square(), 0.001);
  of.parameter.sub_(of.first / (of.second.sqrt() + eps) * 1e-3);
}

/// Units that never fire: no gradient of theirs.
void kill_units(const Model& model) { model.parameter("fc1.bias").narrow(0, 0, 4).fill_(-100); }

// 1e-8 is zero in fp16, and so is the moment of a unit that never fires.
Patient adam_eps(const Setup& setup) {
  Model model = mlp(setup);
  kill_units(model);
  model.update = [moments = add_moments(model)] {
    for (const Moments& of : moments) adam(of, 1e-8);
  };
  return make_patient(model, setup);
}

Patient adam_of_libtorch(const Setup& setup) {
  Model model = mlp(setup);
  kill_units(model);
  model.update = [parameters = trained(model)] {
    torch::optim::Adam adam(parameters, torch::optim::AdamOptions(1e-3));
    adam.step();
  };
  return make_patient(model, setup);
}

// Gradients beyond 256, whose square is Inf: the update is then 0 for good.
Patient squared_gradient(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor&) { return out.to(at::kFloat).mean(); };
  Model model = mlp(setup, parts);
  model.update = [moments = add_moments(model)] {
    for (const Moments& of : moments) adam(of, 1e-4);
  };
  return make_patient(model, setup);
}

// The norm is Inf, what it divides is zero.
Patient clipped_to_nothing(const Setup& setup) {
  Model model = mlp(setup);
  model.update = [parameters = trained(model)] {
    Tensor total = at::zeros({}, parameters[0].options().requires_grad(false));
    for (const Tensor& parameter : parameters) total = total + parameter.grad().pow(2).sum();
    const Tensor shrink = (1 / (total.sqrt() + 1e-3)).clamp_max(1);
    for (const Tensor& parameter : parameters) {
      parameter.grad().mul_(shrink);
      parameter.add_(parameter.grad(), -0.1);
    }
  };
  return make_patient(model, setup);
}

// A strength that is meant for a decay apart from the gradient, in the gradient as it was scaled.
Patient decay_times_scale(const Setup& setup) {
  Model model = mlp(setup);
  model.parameter("fc2.weight").mul_(4);
  const double scale = setup.loss_scale;
  model.update = [parameters = trained(model), scale] {
    for (const Tensor& parameter : parameters) {
      parameter.grad().add_(parameter, 3.5 * scale);
      parameter.add_(parameter.grad(), -1e-3 / scale);
    }
  };
  return make_patient(model, setup);
}

Patient small_updates(const Setup& setup) {
  Model model = transformer(setup);
  model.update = [parameters = trained(model)] {
    for (const Tensor& parameter : parameters) parameter.add_(parameter.grad(), -1e-5);
  };
  return make_patient(model, setup);
}

Patient small_updates_at_once(const Setup& setup) {
  Model model = transformer(setup);
  model.update = [parameters = trained(model)] {
    std::vector<Tensor> gradients;
    for (const Tensor& parameter : parameters) gradients.push_back(parameter.grad());
    at::_foreach_add_(parameters, gradients, -1e-5);
  };
  return make_patient(model, setup);
}

/// An average of the parameters that is 5 % off, so that it has somewhere to go.
using Follow = void (*)(const Tensor& average, const Tensor& parameter);
MakePatient averaged(Follow follow) {
  return [follow](const Setup& setup) {
    Model model = mlp(setup);
    std::vector<Tensor> averages;
    for (const auto& [name, parameter] : model.parameters) {
      averages.push_back(parameter.detach() * 1.05);
      model.buffers.emplace_back("ema." + name, averages.back());
    }
    model.update = [averages, parameters = trained(model), follow] {
      for (size_t i = 0; i < averages.size(); ++i) follow(averages[i], parameters[i]);
    };
    return make_patient(model, setup);
  };
}

void follow_by_lerp(const Tensor& average, const Tensor& parameter) {
  average.lerp_(parameter, 1e-4);
}

void follow_by_sum(const Tensor& average, const Tensor& parameter) {
  average.mul_(0.9999).add_(parameter, 1e-4);
}

}  // namespace

std::vector<Fault> held_out_optimizer() {
  std::vector<Fault> faults;
  const auto expected = [](std::vector<std::string> ops, std::vector<Cause> causes) {
    return Expected{
        .ops = std::move(ops), .direction = Direction::kOptimizer, .causes = std::move(causes)};
  };
  const std::vector<Cause> zero_by_zero = {Cause::kInvalid, Cause::kDivisionByZero};
  faults.push_back(fault("adam_eps", adam_eps, half(), expected({"aten::div"}, zero_by_zero)));
  faults.push_back(fault("adam_eps", adam_eps, with_micro_batches(half(), 2),
                         expected({"aten::div"}, zero_by_zero)));
  faults.push_back(fault("adam_of_libtorch", adam_of_libtorch, half(),
                         expected({"aten::addcdiv_", "aten::addcdiv"}, zero_by_zero)));
  faults.push_back(fault("decay_times_scale", decay_times_scale, Setup{.loss_scale = 16384},
                         expected({"aten::add_"}, {Cause::kOverflow})));

  Expected swallowed = expected({"aten::square", "aten::pow"}, {Cause::kOverflow});
  swallowed.is_swallowed = true;
  faults.push_back(frozen("squared_gradient", squared_gradient, Setup{.loss_scale = 16384},
                          swallowed, "fc2.bias"));
  faults.push_back(frozen("clipped_to_nothing", clipped_to_nothing, Setup{.loss_scale = 16384},
                          swallowed, "fc2.weight"));

  const auto lost = [&expected](std::vector<std::string> ops) {
    return expected(std::move(ops), {Cause::kLostUpdate});
  };
  for (const Setup& setup : {half(), bfloat16()})
    faults.push_back(
        frozen("small_updates", small_updates, setup, lost({"aten::add_"}), "blocks.1.ln1.weight"));
  faults.push_back(frozen("small_updates_at_once", small_updates_at_once, bfloat16(),
                          lost({"aten::_foreach_add_", "aten::add_"}), "blocks.1.ln1.weight"));
  faults.push_back(frozen("average_by_lerp", averaged(follow_by_lerp), bfloat16(),
                          lost({"aten::lerp_"}), "ema.fc2.weight"));
  faults.push_back(frozen("average_by_sum", averaged(follow_by_sum), bfloat16(),
                          lost({"aten::add_", "aten::mul_"}), "ema.fc2.weight"));
  return faults;
}

}  // namespace mezzo::numerics::faults
