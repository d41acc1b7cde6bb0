// Held-out faults in the layers of a forward pass.

#include <cmath>

#include <ATen/ops/embedding.h>
#include <ATen/ops/logit.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros_like.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

MakePatient with_activation(const Unary& activation) {
  return [activation](const Setup& setup) {
    MlpParts parts;
    parts.activation = activation;
    return make_patient(mlp(setup, parts), setup);
  };
}

Patient convolution_overflow(const Setup& setup) {
  const Model model = conv_net(setup);
  model.input("images").mul_(15000);
  model.parameter("conv.weight").mul_(4);
  return make_patient(model, setup);
}

Patient linear_overflow(const Setup& setup) {
  const Model model = transformer(setup);
  model.parameter("blocks.1.mlp.fc.weight").mul_(8);
  model.parameter("blocks.1.mlp.proj.weight").mul_(30000);
  return make_patient(model, setup);
}

// A gate times a value, each of a few hundred.
Patient gated_product(const Setup& setup) {
  TransformerParts parts;
  parts.planted_block = 2;
  parts.activation = [](const Tensor& hidden) { return at::silu(hidden) * hidden; };
  const Model model = transformer(setup, parts);
  model.parameter("blocks.2.mlp.fc.weight").mul_(150);
  return make_patient(model, setup);
}

Patient enlarged_embedding(const Setup& setup) {
  TransformerParts parts;
  parts.embedding = [](const Tensor& tokens, const Tensor& wte) {
    return at::embedding(wte, tokens) * std::sqrt(static_cast<double>(kChannels));
  };
  const Model model = transformer(setup, parts);
  model.parameter("wte").mul_(6000);
  return make_patient(model, setup);
}

// The mean of states as their sum, divided later.
Patient sum_before_mean(const Setup& setup) {
  RecurrentParts parts;
  parts.pool = [](const Tensor& states) {
    return (states.abs() * 9000).sum(1) / static_cast<double>(states.size(1)) * 1e-3;
  };
  return make_patient(recurrent(setup, parts), setup);
}

Patient exploding_state(const Setup& setup) {
  RecurrentParts parts;
  parts.activation = [](const Tensor& state) { return state; };
  const Model model = recurrent(setup, parts);
  model.parameter("cell.weight_h").mul_(6);
  return make_patient(model, setup);
}

Patient running_sum(const Setup& setup) {
  return with_activation(
      [](const Tensor& hidden) { return (hidden.abs() * 8000).cumsum(-1) * 1e-4; })(setup);
}

Patient inverse_root(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return hidden.relu().pow(-0.5); })(setup);
}

Patient inverse_tanh(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return (hidden * 6).tanh().atanh(); })(setup);
}

Patient logit_of_saturated(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return at::logit((hidden * 12).sigmoid()); })(
      setup);
}

Patient all_dropped(const Setup& setup) {
  return with_activation(
      [](const Tensor& hidden) { return hidden * at::zeros_like(hidden.detach()) / 0.0; })(setup);
}

// log(1 + exp(x)), by hand.
Patient softplus_by_hand(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return (1 + (hidden * 10).exp()).log(); })(
      setup);
}

Patient fourth_moment(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    return hidden + (hidden * 10).pow(4).mean(-1, true) * 1e-3;
  })(setup);
}

// No token of the batch went to this expert.
Patient idle_expert(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    const Tensor is_chosen = hidden.detach().argmax(-1) > hidden.size(-1);
    const Tensor mean = hidden.index({is_chosen}).mean(0, true);
    return hidden + mean;
  })(setup);
}

Patient mean_of_no_element(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    return hidden * hidden.masked_select(hidden > 1000).mean();
  })(setup);
}

// A buffer that a layer adds to, half of it already full.
Patient full_buffer(const Setup& setup) {
  MlpParts parts;
  const Tensor total = at::zeros_like(mlp(setup).input("features").narrow(0, 0, 1)).add_(50000);
  parts.input = [total](const Tensor& x) {
    total.add_((x.abs() * 10000).amax(0, true));
    return x + total * 1e-4;
  };
  Model model = mlp(setup, parts);
  model.buffers = {{"total", total}};
  return make_patient(model, setup);
}

}  // namespace

std::vector<Fault> held_out_layers() {
  std::vector<Fault> faults;
  const auto add = [&faults](const std::string& name, const MakePatient& make,
                             const std::vector<Setup>& setups, const Expected& expected) {
    for (const Setup& setup : setups) faults.push_back(fault(name, make, setup, expected));
  };
  const auto overflow = [](std::vector<std::string> ops, std::string module) {
    return Expected{.ops = std::move(ops),
                    .module = std::move(module),
                    .causes = {Cause::kOverflow},
                    .is_proved = true};
  };
  add("convolution_overflow", convolution_overflow, {half(), autocast_half()},
      overflow({"aten::conv2d", "aten::convolution", "aten::_convolution",
                "aten::mkldnn_convolution", "aten::thnn_conv2d", "aten::_slow_conv2d_forward"},
               "conv"));
  add("linear_overflow", linear_overflow, {half(), autocast_half(), with_checkpoint(half())},
      overflow({"aten::linear", "aten::addmm", "aten::matmul", "aten::mm"}, "blocks.1.mlp"));
  add("gated_product", gated_product,
      {half(), autocast_half(), with_checkpoint(with_micro_batches(autocast_half(), 2))},
      overflow({"aten::mul"}, "blocks.2.mlp"));
  add("enlarged_embedding", enlarged_embedding, {half()}, overflow({"aten::mul"}, "embed"));
  add("sum_before_mean", sum_before_mean, {half()}, overflow({"aten::sum"}, "pool"));
  add("exploding_state", exploding_state, {half()},
      overflow({"aten::linear", "aten::mm", "aten::matmul", "aten::add"}, "cell"));
  add("running_sum", running_sum, {half()}, overflow({"aten::cumsum"}, "act"));
  add("softplus_by_hand", softplus_by_hand, {half()}, overflow({"aten::exp"}, "act"));
  add("fourth_moment", fourth_moment, {half()}, overflow({"aten::pow"}, "act"));
  add("full_buffer", full_buffer, {half()},
      {.ops = {"aten::add_"}, .module = "input", .causes = {Cause::kOverflow}});

  const auto pole = [](const std::string& op) {
    return Expected{.ops = {op}, .module = "act", .causes = {Cause::kDivisionByZero}};
  };
  add("inverse_root", inverse_root, {half(), bfloat16(), autocast_half()}, pole("aten::pow"));
  add("inverse_tanh", inverse_tanh, {half(), bfloat16()}, pole("aten::atanh"));
  add("logit_of_saturated", logit_of_saturated, {half(), bfloat16()}, pole("aten::logit"));
  Expected zero_by_zero = pole("aten::div");
  zero_by_zero.causes = {Cause::kInvalid, Cause::kDivisionByZero};
  add("all_dropped", all_dropped, {half(), bfloat16()}, zero_by_zero);
  add("idle_expert", idle_expert, {half(), autocast_half()},
      {.ops = {"aten::mean"}, .module = "act", .causes = {Cause::kEmptyReduction}});
  add("mean_of_no_element", mean_of_no_element, {bfloat16()},
      {.ops = {"aten::mean"}, .module = "act", .causes = {Cause::kEmptyReduction}});
  return faults;
}

}  // namespace mezzo::numerics::faults
