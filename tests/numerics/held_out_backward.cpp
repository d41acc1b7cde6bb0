// Held-out faults that are born in the backward pass, of a forward pass that is clean or that
// hides what it did.

#include <memory>

#include <torch/csrc/autograd/autograd.h>  // grad()

#include "mezzo/base/scope.h"
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

// Every row looks up the same token, whose gradients add up.
Patient one_hot_token(const Setup& setup) {
  const Model model = transformer(setup);
  model.input("tokens").fill_(7);
  model.input("targets").fill_(3);
  model.parameter("wte").mul_(0.01);
  model.parameter("wpe").zero_();
  return make_patient(model, setup);
}

Patient plain_mlp(const Setup& setup) { return make_patient(mlp(setup), setup); }

// Values are small and what is made of them is large: so is the gradient in between.
Patient steep_projection(const Setup& setup) {
  const Model model = transformer(setup);
  model.parameter("blocks.1.attn.qkv.weight").narrow(0, 2 * kChannels, kChannels).mul_(0x1p-10);
  model.parameter("blocks.1.attn.proj.weight").mul_(0x1p10);
  return make_patient(model, setup);
}

Patient norm_at_zero(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    const Tensor x = hidden * (hidden.detach().sum(-1, true) > 0);
    return x + x.pow(2).sum(-1, true).sqrt();
  })(setup);
}

// The diagonal of a matrix of distances.
Patient distance_to_itself(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    const Tensor apart = hidden.unsqueeze(0) - hidden.unsqueeze(1);
    const Tensor distance = (apart * apart).sum(-1).sqrt();
    return hidden + distance.mean(-1, true);
  })(setup);
}

// Units that never fire leave no gradient of the features, whose length is then zero.
Patient gradient_penalty(const Setup& setup) {
  const auto features = std::make_shared<Tensor>();
  MlpParts parts;
  parts.input = [features](const Tensor& x) {
    *features = x.detach().requires_grad_();
    return *features;
  };
  parts.loss = [features](const Tensor& out, const Tensor& targets) {
    const Tensor loss = cross_entropy(out, targets);
    const Scope scope("penalty");
    const Tensor slope = torch::autograd::grad({out.sum()}, {*features}, {}, true, true)[0];
    const Tensor length = slope.to(at::kFloat).pow(2).sum(-1).sqrt();
    return loss + (length - 1).pow(2).mean();
  };
  const Model model = mlp(setup, parts);
  model.parameter("fc1.bias").fill_(-100);
  return make_patient(model, setup);
}

// A weight of (1 - p) ^ 0.5 where p is 1, of labels that the model itself gives.
Patient focal_loss(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor&) {
    const Tensor log_p = out.log_softmax(-1).gather(-1, out.argmax(-1, true));
    return -((1 - log_p.exp()).pow(0.5) * log_p).mean();
  };
  const Model model = mlp(setup, parts);
  model.parameter("fc2.weight").mul_(25);
  return make_patient(model, setup);
}

// Clamped, acos is finite, and its slope is not.
Patient clamped_cosine(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    const Tensor length = (hidden * hidden).sum(-1, true);
    const Tensor cosine = (length / length.detach()).clamp(-1, 1);
    return hidden + cosine.acos();
  })(setup);
}

// In the forward pass the overflow is harmless: 1 / (1 + Inf) is 0.
Patient sigmoid_with_gradient(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return 1 / (1 + (hidden * -20).exp()); })(
      setup);
}

Patient root_at_zero(const Setup& setup) {
  return with_activation([](const Tensor& hidden) { return hidden.abs().mul(hidden > 0).sqrt(); })(
      setup);
}

// A quotient where its divisor is masked out afterwards.
Patient quotient_behind_where(const Setup& setup) {
  return with_activation([](const Tensor& hidden) {
    const Tensor divisor = hidden * (hidden > 0);
    return (1 / divisor).masked_fill(divisor == 0, 0) * 1e-3;
  })(setup);
}

}  // namespace

std::vector<Fault> held_out_backward() {
  std::vector<Fault> faults;
  const auto add = [&faults](const std::string& name, const MakePatient& make,
                             const std::vector<Setup>& setups, Expected expected) {
    expected.direction = Direction::kBackward;
    for (const Setup& setup : setups) faults.push_back(fault(name, make, setup, expected));
  };
  add("one_hot_token", one_hot_token, {Setup{.loss_scale = 4096}},
      {.ops = {"aten::embedding_backward", "aten::embedding_dense_backward"},
       .module = "embed",
       .causes = {Cause::kOverflow},
       .is_proved = true});
  add("loss_scale", plain_mlp, {autocast_half(0x1p22)},
      {.ops = {"aten::to", "aten::_to_copy", "aten::copy_"},
       .module = "loss",
       .causes = {Cause::kOverflow},
       .is_proved = true});
  for (const Setup& setup :
       {autocast_half(0x1p17), with_checkpoint(with_micro_batches(autocast_half(0x1p17), 2))})
    add("steep_projection", steep_projection, {setup},
        {.ops = {"aten::mm"},
         .module = "blocks.1.attn",
         .causes = {Cause::kOverflow},
         .is_proved = true});

  const auto pole = [](std::vector<std::string> ops, std::string module) {
    return Expected{.ops = std::move(ops),
                    .module = std::move(module),
                    .causes = {Cause::kDivisionByZero, Cause::kInvalid}};
  };
  add("norm_at_zero", norm_at_zero, {half(), bfloat16(), autocast_half()},
      pole({"aten::div"}, "act"));
  add("distance_to_itself", distance_to_itself, {half(), bfloat16()}, pole({"aten::div"}, "act"));
  add("gradient_penalty", gradient_penalty, {half(), autocast_half()},
      pole({"aten::div"}, "loss.penalty"));
  add("focal_loss", focal_loss, {half()}, pole({"aten::pow"}, "loss"));
  add("clamped_cosine", clamped_cosine, {half(), autocast_half()}, pole({"aten::rsqrt"}, "act"));
  add("root_at_zero", root_at_zero, {half(), bfloat16()}, pole({"aten::div"}, "act"));
  add("quotient_behind_where", quotient_behind_where, {half()},
      pole({"aten::div", "aten::mul"}, "act"));

  faults.push_back(fault("sigmoid_with_gradient", sigmoid_with_gradient, half(),
                         {.ops = {"aten::exp"}, .module = "act", .causes = {Cause::kOverflow}}));
  return faults;
}

}  // namespace mezzo::numerics::faults
