// The half of the known faults that the rules are tuned on.

#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Tensor softmax_by_exp(const Tensor& scores) {
  const Tensor e = scores.exp();
  return e / e.sum(-1, true);
}

MakePatient exp_without_maximum(double logits_scale) {
  return [logits_scale](const Setup& setup) {
    TransformerParts parts;
    parts.planted_block = 2;
    parts.softmax = softmax_by_exp;
    const Model model = transformer(setup, parts);
    model.parameter("blocks.2.attn.qkv.weight").mul_(logits_scale);
    return make_patient(model, setup);
  };
}

Tensor layer_norm_by_hand(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor centered = x - x.mean(-1, true);
  const Tensor variance = centered.pow(2).mean(-1, true);
  return centered * (variance + 1e-5).rsqrt() * weight + bias;
}

Patient variance_overflow(const Setup& setup) {
  TransformerParts parts;
  parts.norm = layer_norm_by_hand;
  const Model model = transformer(setup, parts);
  // Branches as large as the stream, so that one that is missing shows in the loss.
  for (const auto& [name, parameter] : model.parameters)
    if (name == "wte" || name.ends_with("proj.weight")) parameter.detach().mul_(300);
  return make_patient(model, setup);
}

// eps = 1e-8 is zero in fp16, and a row of zeros is what a padding token has.
Patient rms_of_zeros(const Setup& setup) {
  TransformerParts parts;
  parts.planted_block = 0;
  parts.norm = [](const Tensor& x, const Tensor& weight, const Tensor&) {
    return x / (x.pow(2).mean(-1, true).sqrt() + 1e-8) * weight;
  };
  const Model model = transformer(setup, parts);
  model.input("tokens").select(1, 3).fill_(5);
  model.parameter("wte").select(0, 5).zero_();
  model.parameter("wpe").select(0, 3).zero_();
  return make_patient(model, setup);
}

Patient summed_loss(const Setup& setup) {
  TransformerParts parts;
  parts.loss = [](const Tensor& logits, const Tensor& targets) {
    const Tensor picked = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1));
    return (picked * -1000).sum();
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient log_of_underflown(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    const Tensor picked = out.softmax(-1).gather(-1, targets.unsqueeze(-1));
    return -picked.log().mean();
  };
  const Model model = mlp(setup, parts);
  model.parameter("fc2.weight").mul_(20);
  return make_patient(model, setup);
}

// The second sample is nothing but padding.
Patient masked_rows(const Setup& setup) {
  TransformerParts parts;
  parts.mask = [](const Tensor& scores) {
    Tensor is_padding = at::ones({scores.size(0), 1, 1, scores.size(-1)}, at::kBool).logical_not();
    is_padding.select(0, 1).fill_(true);
    return scores.masked_fill(is_padding, -kInf);
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient doubling_residual(const Setup& setup) {
  TransformerParts parts;
  parts.blocks = 12;
  parts.planted_block = -1;
  parts.residual = [](const Tensor& x, const Tensor& branch) { return (x + branch) + x; };
  const Model model = transformer(setup, parts);
  // Two doublings a block: an element of 4 is 65536 after seven. The branches add little.
  for (const auto& [name, parameter] : model.parameters)
    if (name.ends_with("proj.weight")) parameter.detach().mul_(0.01);
  return make_patient(model, setup);
}

Patient all_labels_ignored(const Setup& setup) {
  const Model model = transformer(setup);
  model.input("targets").fill_(-100);
  return make_patient(model, setup);
}

Patient nan_in_batch(const Setup& setup) {
  const Model model = mlp(setup);
  model.input("features").select(0, 5).select(0, 3).fill_(kNan);
  return make_patient(model, setup);
}

// Each micro-batch's gradient fits, their sum does not.
Patient accumulated_gradient(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor&) { return out.to(at::kFloat).mean() * 4; };
  const Model model = mlp(setup, parts);
  model.input("features").abs_().clamp_(0.5, 2).select(1, 0).fill_(1);
  model.parameter("fc1.weight").abs_();
  return make_patient(model, setup);
}

Patient log_behind_where(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor x = hidden * (hidden > 0);
    return at::where(x > 0, x.log(), at::zeros_like(x));
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient parameter_from_before(const Setup& setup) {
  const Model model = transformer(setup);
  model.parameter("blocks.1.mlp.fc.weight").select(0, 7).select(0, 2).fill_(kNan);
  return make_patient(model, setup);
}

Patient tiny_gradients(const Setup& setup) {
  MlpParts parts;
  parts.loss = [](const Tensor& out, const Tensor& targets) {
    return cross_entropy(out, targets) * 1e-7;
  };
  return make_patient(mlp(setup, parts), setup);
}

Fault tiny_gradients_fault() {
  Fault silent = fault("tiny_gradients", tiny_gradients, autocast_half(1.0),
                       {.ops = {"aten::to", "aten::_to_copy", "aten::copy_"},
                        .direction = Direction::kBackward,
                        .causes = {Cause::kUnderflow},
                        .is_proved = true});
  silent.fires = [](const Patient& patient) {
    patient.step();
    return !patient.parameters[0].second.grad().any().item<bool>();
  };
  return silent;
}

// In bf16 the angle of position 257 is that of 256.
Patient positions_in(at::ScalarType dtype, const Setup& setup) {
  TransformerParts parts;
  parts.B = 1;
  parts.T = 300;
  parts.blocks = 2;
  parts.embedding = [dtype](const Tensor& tokens, const Tensor& wte) {
    const Tensor position = at::arange(tokens.size(1), at::TensorOptions(dtype));
    const Tensor wave = (position.unsqueeze(-1) * 0.5).sin();
    return at::embedding(wte, tokens) + wave.to(wte.scalar_type());
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient colliding_positions(const Setup& setup) { return positions_in(setup.dtype, setup); }

Fault colliding_positions_fault() {
  const Setup setup = bfloat16();
  Fault silent =
      fault("colliding_positions", colliding_positions, setup,
            {.ops = {"aten::arange"}, .module = "embed", .causes = {Cause::kCollidingIntegers}});
  silent.fires = [setup](const Patient& patient) {
    const Patient exact = positions_in(at::kFloat, setup);
    return patient.step().item<double>() != exact.step().item<double>();
  };
  return silent;
}

Patient label_on_masked_id(const Setup& setup) {
  TransformerParts parts;
  parts.loss = [](const Tensor& logits, const Tensor& targets) {
    const Tensor is_padding = at::arange(kVocabulary) >= kVocabulary - 4;
    return cross_entropy(logits.masked_fill(is_padding, -kInf), targets);
  };
  const Model model = transformer(setup, parts);
  model.input("targets")
      .clamp_(0, kVocabulary - 5)
      .select(0, 2)
      .select(0, 6)
      .fill_(kVocabulary - 2);
  return make_patient(model, setup);
}

}  // namespace

std::vector<Fault> tuned_faults() {
  std::vector<Fault> faults;

  const Expected exp_overflow{.ops = {"aten::exp"},
                              .module = "blocks.2.attn",
                              .causes = {Cause::kOverflow},
                              .is_proved = true};
  for (const Setup& setup : {half(), with_micro_batches(half(), 2), with_checkpoint(half())})
    faults.push_back(fault("exp_without_maximum", exp_without_maximum(4), setup, exp_overflow));
  // Beyond fp32's range too, in which nothing is cured.
  Expected beyond_fp32 = exp_overflow;
  beyond_fp32.is_proved = false;
  faults.push_back(fault("exp_without_maximum", exp_without_maximum(12), bfloat16(), beyond_fp32));

  const Expected variance{.ops = {"aten::pow"},
                          .module = "blocks.1.ln1",
                          .causes = {Cause::kOverflow},
                          .is_swallowed = true,
                          .is_proved = true};
  faults.push_back(wrong_loss("variance_overflow", variance_overflow, half(), variance));
  faults.push_back(
      wrong_loss("variance_overflow", variance_overflow, with_checkpoint(half()), variance));

  faults.push_back(fault("rms_of_zeros", rms_of_zeros, half(),
                         {.ops = {"aten::div"},
                          .module = "blocks.0.ln1",
                          .causes = {Cause::kInvalid, Cause::kDivisionByZero}}));

  const Expected sum{
      .ops = {"aten::sum"}, .module = "loss", .causes = {Cause::kOverflow}, .is_proved = true};
  faults.push_back(fault("summed_loss", summed_loss, half(), sum));
  faults.push_back(fault("summed_loss", summed_loss, with_checkpoint(half()), sum));

  const Expected log_of_zero{
      .ops = {"aten::log"}, .module = "loss", .causes = {Cause::kDivisionByZero}};
  faults.push_back(fault("log_of_underflown", log_of_underflown, half(), log_of_zero));
  faults.push_back(
      fault("log_of_underflown", log_of_underflown, with_micro_batches(half(), 2), log_of_zero));

  for (const Setup& setup : {half(), bfloat16(), autocast_half(), with_checkpoint(half())})
    faults.push_back(fault("masked_rows", masked_rows, setup,
                           {.ops = {"aten::softmax", "aten::_softmax"},
                            .module = "blocks.1.attn",
                            .causes = {Cause::kMaskedRow},
                            .sample = 1}));

  for (const Setup& setup : {half(), with_checkpoint(half())})
    faults.push_back(fault("doubling_residual", doubling_residual, setup,
                           {.ops = {"aten::add"},
                            .module = "blocks.7",
                            .causes = {Cause::kOverflow},
                            .is_proved = true}));

  for (const Setup& setup : {half(), bfloat16(), autocast_half()})
    faults.push_back(fault("all_labels_ignored", all_labels_ignored, setup,
                           {.ops = {"aten::cross_entropy_loss", "aten::nll_loss_nd",
                                    "aten::nll_loss", "aten::nll_loss_forward"},
                            .module = "loss",
                            .causes = {Cause::kEmptyReduction}}));

  for (const Setup& setup : {half(), bfloat16(), autocast_half()})
    faults.push_back(fault("nan_in_batch", nan_in_batch, setup,
                           {.causes = {Cause::kExternal}, .tensor = "features", .sample = 5}));

  faults.push_back(fault("accumulated_gradient", accumulated_gradient,
                         {.loss_scale = 65536, .micro_batches = 4},
                         {.ops = {"aten::add_", "aten::add"},
                          .direction = Direction::kBackward,
                          .causes = {Cause::kOverflow}}));

  for (const Setup& setup : {half(), bfloat16(), autocast_half()})
    faults.push_back(fault("log_behind_where", log_behind_where, setup,
                           {.ops = {"aten::div"},
                            .direction = Direction::kBackward,
                            .module = "act",
                            .causes = {Cause::kInvalid, Cause::kDivisionByZero}}));

  for (const Setup& setup : {half(), bfloat16(), with_checkpoint(half())})
    faults.push_back(fault("parameter_from_before", parameter_from_before, setup,
                           {.causes = {Cause::kExternal}, .tensor = "blocks.1.mlp.fc.weight"}));

  faults.push_back(tiny_gradients_fault());

  faults.push_back(colliding_positions_fault());

  for (const Setup& setup : {half(), bfloat16(), autocast_half()})
    faults.push_back(fault("label_on_masked_id", label_on_masked_id, setup,
                           {.ops = {"aten::cross_entropy_loss", "aten::nll_loss_nd",
                                    "aten::nll_loss", "aten::nll_loss_forward"},
                            .module = "loss",
                            .causes = {Cause::kMaskedChoice}}));
  return faults;
}

}  // namespace mezzo::numerics::faults
