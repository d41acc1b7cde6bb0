// Steps with nothing wrong that tempt a checker: infinities that are meant, overflows without a
// consequence, gradients that are zero by right, memory that looks unwritten.

#include <cmath>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/atan2.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();

Setup in(at::ScalarType dtype) { return {.dtype = dtype}; }

/// As people train in fp16: all at once.
Setup whole_recipe(at::ScalarType dtype) {
  return {.dtype = dtype,
          .is_autocast = true,
          .loss_scale = 65536,
          .micro_batches = 4,
          .is_checkpointed = true};
}

Patient plain_transformer(const Setup& setup) { return make_patient(transformer(setup), setup); }
Patient plain_conv_net(const Setup& setup) { return make_patient(conv_net(setup), setup); }
Patient plain_recurrent(const Setup& setup) { return make_patient(recurrent(setup), setup); }

Tensor future_as_infinity(int64_t T, at::ScalarType dtype) {
  return at::full({T, T}, -kInf, dtype).triu(1);
}

Patient causal_buffer_added(const Setup& setup) {
  TransformerParts parts;
  parts.planted_block = -1;
  const Tensor buffer = future_as_infinity(parts.T, setup.dtype);
  parts.mask = [buffer](const Tensor& scores) { return scores + buffer; };
  Model model = transformer(setup, parts);
  model.buffers = {{"causal", buffer}};
  return make_patient(model, setup);
}

// The last tokens of each sample are padding; every row sees its first token.
Patient padding_and_causal(const Setup& setup) {
  TransformerParts parts;
  parts.planted_block = -1;
  parts.mask = [](const Tensor& scores) {
    const int64_t T = scores.size(-1);
    const Tensor is_padding = at::arange(T) >= T - 3;
    const Tensor is_future = at::ones({T, T}, at::kBool).triu(1);
    return scores.masked_fill(is_padding, -kInf).masked_fill(is_future, -kInf);
  };
  return make_patient(transformer(setup, parts), setup);
}

// torch's own attention gives zeros for a row that sees nothing.
Patient attention_of_masked_row(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden.view({hidden.size(0), 1, 4, 8});
    Tensor may_see = at::ones({4, 4}, at::kBool).tril();
    may_see.select(0, 2).fill_(false);
    return at::scaled_dot_product_attention(x, x, x, may_see).reshape({hidden.size(0), 32});
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient empty_then_overwritten(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    Tensor out = at::empty_like(hidden.detach());
    out.copy_(hidden.relu());
    return out;
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient empty_written_in_slices(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    Tensor out = at::empty_like(hidden.detach());
    out.slice(1, 0, 16).copy_(hidden.slice(1, 16, 32));
    out.slice(1, 16, 24).copy_(hidden.slice(1, 0, 8).tanh());
    out.slice(1, 24, 32).zero_();
    return out.relu_();
  };
  return make_patient(mlp(setup, parts), setup);
}

// exp(-x) is Inf where the gate is 0, which is right.
Patient sigmoid_by_hand(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor gate = 1 / (1 + (-hidden.detach() * 20).exp());
    return hidden * gate;
  };
  return make_patient(mlp(setup, parts), setup);
}

// x^3 is Inf where tanh is 1, which is right; its gradient there is 0.
Patient gelu_by_hand(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden * 20;
    return 0.05 * x * (1 + ((x + 0.044715 * x.pow(3)) * std::sqrt(2 / M_PI)).tanh());
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient log_behind_two_wheres(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden * (hidden > 0), is_positive = x > 0;
    const Tensor safe = at::where(is_positive, x, at::ones_like(x));
    return at::where(is_positive, safe.log(), at::zeros_like(x));
  };
  return make_patient(mlp(setup, parts), setup);
}

// The gradient of what log(0) gives is 0 / 0, and relu's own is zero there whatever comes.
Patient log_behind_where_after_relu(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden.relu();
    return at::where(x > 0, x.log(), at::zeros_like(x));
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient dead_layer(const Setup& setup) {
  const Model model = mlp(setup);
  model.parameter("fc1.bias").fill_(-100);
  return make_patient(model, setup);
}

Patient with_dropout(const Setup& setup) {
  TransformerParts parts;
  parts.planted_block = -1;
  parts.residual = [](const Tensor& x, const Tensor& branch) {
    return x + at::dropout(branch, 0.3, true);
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient log_sum_exp_by_hand(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    const Tensor logits = out * 30, largest = logits.amax(-1, true).detach();
    const Tensor lse = (logits - largest).exp().sum(-1, true).log() + largest;
    return (lse - logits.gather(-1, targets.unsqueeze(-1))).mean();
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient padded_vocabulary(const Setup& setup) {
  TransformerParts parts;
  parts.loss = [](const Tensor& logits, const Tensor& targets) {
    const Tensor is_padding = at::arange(kVocabulary) >= kVocabulary - 4;
    return cross_entropy(logits.masked_fill(is_padding, -kInf), targets);
  };
  const Model model = transformer(setup, parts);
  model.input("targets").clamp_(0, kVocabulary - 5);
  return make_patient(model, setup);
}

Patient some_labels_ignored(const Setup& setup) {
  const Model model = transformer(setup);
  model.input("targets").slice(1, 5).fill_(-100);
  return make_patient(model, setup);
}

Patient running_minimum(const Setup& setup) {
  RecurrentParts parts;
  parts.pool = [](const Tensor& states) {
    Tensor smallest = at::full_like(states.select(1, 0), kInf).detach();
    for (int64_t t = 0; t < states.size(1); ++t)
      smallest = at::minimum(smallest, states.select(1, t));
    return smallest;
  };
  return make_patient(recurrent(setup, parts), setup);
}

// In log space nothing is -Inf.
Patient running_sum_of_logs(const Setup& setup) {
  RecurrentParts parts;
  parts.pool = [](const Tensor& states) {
    Tensor sum = at::full_like(states.select(1, 0), -kInf).detach();
    for (int64_t t = 0; t < states.size(1); ++t) sum = at::logaddexp(sum, states.select(1, t));
    return sum;
  };
  return make_patient(recurrent(setup, parts), setup);
}

Patient clamped(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) { return (hidden * 5000).clamp(-6, 6); };
  return make_patient(mlp(setup, parts), setup);
}

// A sampler's cut and an accuracy, beside the loss.
Patient top_choices(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    const Tensor least = std::get<0>(out.topk(3, -1)).narrow(-1, 2, 1);
    const Tensor cut = out.masked_fill(out < least, -kInf);
    const Tensor chosen = cut.softmax(-1).argmax(-1);
    const Tensor weight = 1 + chosen.ne(targets).to(out.scalar_type());
    return cross_entropy(out * weight.unsqueeze(-1), targets);
  };
  return make_patient(mlp(setup, parts), setup);
}

// at::norm and at::std have a gradient at zero.
Patient norm_and_std_of_nothing(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden * hidden.detach().sum(-1, true).gt(0);
    return hidden.relu() + x.norm(2, -1).unsqueeze(-1) + x.std(-1, true, true);
  };
  return make_patient(mlp(setup, parts), setup);
}

// libtorch's own gradients of these have a pole within, and mask it.
Patient poles_within_gradients(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden * (hidden > 0);
    Tensor is_masked = at::zeros({hidden.size(0), 1}, at::kBool);
    is_masked.select(0, 4).fill_(true);
    const Tensor sum = at::logsumexp(hidden.masked_fill(is_masked, -kInf), {-1}, true);
    return hidden + at::atan2(x, x.roll(1, -1)) + sum.masked_fill(is_masked, 0);
  };
  return make_patient(mlp(setup, parts), setup);
}

// Of a batch norm in training: written each step, and named to nobody.
Patient running_statistics(const Setup& setup) {
  const Tensor mean = at::zeros({8}, at::kFloat), var = at::ones({8}, at::kFloat);
  ConvNetParts parts;
  parts.norm = [mean, var](const Tensor& x) {
    return at::batch_norm(x, {}, {}, mean, var, true, 0.1, 1e-5, false);
  };
  return make_patient(conv_net(setup, parts), setup);
}

Patient saturated_logits(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    const Tensor truth = at::one_hot(targets, 8).to(out.scalar_type());
    return at::binary_cross_entropy_with_logits(out * 200, truth);
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient one_hot_entropy(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    const Tensor truth = at::one_hot(targets, 8).to(at::kFloat);
    const Tensor entropy = truth.xlogy(truth);
    return (entropy - truth * out.to(at::kFloat).log_softmax(-1)).sum(-1).mean();
  };
  return make_patient(mlp(setup, parts), setup);
}

// fp16 has all integers up to 2048.
Patient positions_that_fit(const Setup& setup) {
  TransformerParts parts;
  parts.B = 1;
  parts.T = 300;
  parts.blocks = 1;
  parts.embedding = [](const Tensor& tokens, const Tensor& wte) {
    const Tensor position = at::arange(tokens.size(1), wte.options().requires_grad(false));
    return at::embedding(wte, tokens) + (position.unsqueeze(-1) * 0.5).sin();
  };
  return make_patient(transformer(setup, parts), setup);
}

std::vector<Tensor> trained(const Model& model) {
  std::vector<Tensor> tensors;
  for (const auto& [name, parameter] : model.parameters) tensors.push_back(parameter);
  return tensors;
}

// The optimizers are made anew each step: their own counters cannot be put back.
Patient with_adamw(const Setup& setup) {
  Model model = transformer(setup);
  model.update = [parameters = trained(model)] {
    torch::nn::utils::clip_grad_norm_(parameters, 1.0);
    torch::optim::AdamW adamw(parameters, torch::optim::AdamWOptions(1e-3).weight_decay(0.1));
    adamw.step();
  };
  return make_patient(model, setup);
}

Patient stepped_by_sgd(Model model, const Setup& setup, double lr) {
  model.update = [parameters = trained(model), lr] {
    torch::optim::SGD sgd(parameters, torch::optim::SGDOptions(lr).momentum(0.9));
    sgd.step();
  };
  return make_patient(model, setup);
}

// The first step of a warm-up moves nothing, and is meant to.
Patient warm_up_from_zero(const Setup& setup) { return stepped_by_sgd(mlp(setup), setup, 0.0); }

Patient with_sgd(const Setup& setup) { return stepped_by_sgd(conv_net(setup), setup, 0.5); }

}  // namespace

std::vector<Healthy> healthy_patients() {
  std::vector<Healthy> patients;
  const auto add = [&patients](const std::string& name, const MakePatient& make,
                               const std::vector<Setup>& setups) {
    for (const Setup& setup : setups)
      patients.push_back(
          {.name = name + "_" + to_string(setup), .make = [make, setup] { return make(setup); }});
  };
  const Setup autocast_bf16{.dtype = at::kBFloat16, .is_autocast = true};
  add("transformer", plain_transformer,
      {half(), bfloat16(), in(at::kFloat), in(at::kDouble), autocast_half(), autocast_bf16,
       whole_recipe(at::kHalf), whole_recipe(at::kBFloat16)});
  add("conv_net", plain_conv_net, {half(), bfloat16(), autocast_half(1024), in(at::kFloat)});
  add("recurrent", plain_recurrent, {half(), bfloat16(), autocast_half(1024)});
  add("causal_buffer_added", causal_buffer_added, {half(), autocast_half(), bfloat16()});
  add("padding_and_causal", padding_and_causal, {half(), whole_recipe(at::kHalf)});
  add("attention_of_masked_row", attention_of_masked_row, {half(), bfloat16(), in(at::kFloat)});
  add("empty_then_overwritten", empty_then_overwritten, {half(), in(at::kFloat)});
  add("empty_written_in_slices", empty_written_in_slices, {half(), in(at::kFloat)});
  add("sigmoid_by_hand", sigmoid_by_hand, {half()});
  add("gelu_by_hand", gelu_by_hand, {half()});
  add("log_behind_two_wheres", log_behind_two_wheres, {half(), bfloat16()});
  add("log_behind_where_after_relu", log_behind_where_after_relu, {half(), in(at::kFloat)});
  add("dead_layer", dead_layer, {half(), bfloat16()});
  add("with_dropout", with_dropout, {half(), whole_recipe(at::kHalf)});
  add("log_sum_exp_by_hand", log_sum_exp_by_hand, {half()});
  add("padded_vocabulary", padded_vocabulary, {half(), bfloat16(), autocast_half()});
  add("some_labels_ignored", some_labels_ignored, {half(), autocast_half()});
  add("running_minimum", running_minimum, {half(), bfloat16()});
  add("running_sum_of_logs", running_sum_of_logs, {in(at::kFloat), bfloat16()});
  add("clamped", clamped, {half()});
  add("top_choices", top_choices, {half(), autocast_half()});
  add("norm_and_std_of_nothing", norm_and_std_of_nothing, {half(), in(at::kFloat)});
  add("poles_within_gradients", poles_within_gradients, {half(), in(at::kFloat)});
  add("running_statistics", running_statistics, {half(), autocast_half()});
  add("saturated_logits", saturated_logits, {half(), bfloat16()});
  add("one_hot_entropy", one_hot_entropy, {half()});
  add("positions_that_fit", positions_that_fit, {half()});
  add("with_adamw", with_adamw, {in(at::kFloat), autocast_half(1.0), autocast_bf16});
  add("warm_up_from_zero", warm_up_from_zero, {bfloat16(), in(at::kFloat)});
  add("with_sgd", with_sgd, {in(at::kFloat), autocast_bf16});
  return patients;
}

}  // namespace mezzo::numerics::faults
