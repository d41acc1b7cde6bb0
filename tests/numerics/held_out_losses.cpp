// Held-out faults of losses.

#include <limits>

#include <ATen/core/Reduction.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/ctc_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kClasses = 8;

/// An MLP with this loss, its outputs enlarged.
MakePatient with_loss(const Binary& loss, double enlarged = 1) {
  return [loss, enlarged](const Setup& setup) {
    MlpParts parts;
    parts.loss = loss;
    const Model model = mlp(setup, parts);
    model.parameter("fc2.weight").mul_(enlarged);
    return make_patient(model, setup);
  };
}

Tensor truth_of(const Tensor& targets, const Tensor& like) {
  return at::one_hot(targets, kClasses).to(like.scalar_type());
}

Tensor mean_over_no_token(const Tensor& logits, const Tensor& targets) {
  const Tensor picked = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1);
  const Tensor counts = targets.lt(0).to(picked.scalar_type());
  return -(picked * counts).sum() / counts.sum();
}

Patient empty_mask(const Setup& setup) {
  TransformerParts parts;
  parts.loss = mean_over_no_token;
  return make_patient(transformer(setup, parts), setup);
}

// A sample without a single token that counts.
Tensor mean_a_sample(const Tensor& out, const Tensor&) {
  Tensor counts = at::ones({out.size(0), out.size(1)}, out.options().requires_grad(false));
  counts.select(0, 2).zero_();
  return ((out * out * counts).sum(-1) / counts.sum(-1)).mean();
}

// A cosine that rounding made larger than 1.
Tensor angle_to_itself(const Tensor& out, const Tensor&) {
  const Tensor norm = (out * out).sum(-1).sqrt();
  const Tensor cosine = (out * out).sum(-1) / (norm * norm);
  return cosine.acos().mean();
}

Tensor cross_entropy_of_sigmoid(const Tensor& out, const Tensor& targets) {
  const Tensor p = out.sigmoid(), truth = truth_of(targets, out);
  return -(truth * p.log() + (1 - truth) * (1 - p).log()).mean();
}

// No weight on the masked classes, and 0 * -Inf is not 0.
Tensor smoothed_by_hand(const Tensor& out, const Tensor& targets) {
  const Tensor is_masked = at::arange(kClasses) >= kClasses - 2;
  const Tensor log_p = out.masked_fill(is_masked, -kInf).log_softmax(-1);
  const Tensor truth = truth_of(targets.clamp(0, kClasses - 3), out);
  const Tensor smooth = at::full_like(truth, 0.1 / (kClasses - 2)).masked_fill(is_masked, 0);
  return -((truth * 0.9 + smooth) * log_p).sum(-1).mean();
}

Tensor smoothed_by_option(const Tensor& out, const Tensor& targets) {
  const Tensor is_masked = at::arange(kClasses) >= kClasses - 2;
  return at::cross_entropy_loss(out.to(at::kFloat).masked_fill(is_masked, -kInf),
                                targets.clamp(0, kClasses - 3), {}, at::Reduction::Mean, -100, 0.1);
}

Tensor divergence_from_one_hot(const Tensor& out, const Tensor& targets) {
  const Tensor truth = truth_of(targets, out);
  return (truth * (truth / out.softmax(-1)).log()).sum(-1).mean();
}

// Eight labels, of which two that follow each other are equal, do not fit in eight frames.
Tensor labels_longer_than_frames(const Tensor& out, const Tensor& targets) {
  const Tensor log_p = out.to(at::kFloat).log_softmax(-1).unsqueeze(1);
  const int64_t frames = out.size(0);
  return at::ctc_loss(log_p, targets.clamp(1, 3).unsqueeze(0), at::IntArrayRef{frames},
                      at::IntArrayRef{frames});
}

// A learned temperature that nobody clamped.
Tensor contrastive(const Tensor& out, const Tensor&) {
  const Tensor scale = at::full({}, 11.5, out.options().requires_grad(false)).exp();
  const Tensor similarity = out.matmul(out.t()) * scale;
  return cross_entropy(similarity, at::arange(out.size(0)));
}

Tensor evidence_bound(const Tensor& out, const Tensor&) {
  const auto halves = out.chunk(2, -1);
  const Tensor &mean = halves[0], &log_variance = halves[1];
  return (mean * mean + log_variance.exp() - 1 - log_variance).mean() * 0.5;
}

Tensor smooth_distance(const Tensor& out, const Tensor&) {
  return ((out.pow(2) + 1).sqrt() - 1).mean();
}

// The density of a policy's action, squashed: tanh is 1 in fp16 from 4.5 on.
Tensor squashed_density(const Tensor& out, const Tensor&) {
  const Tensor action = out.tanh();
  return -(1 - action * action).log().sum(-1).mean();
}

Tensor variance_of_a_sum(const Tensor& out, const Tensor& targets) {
  const Tensor wrong = out.softmax(-1) - truth_of(targets, out);
  return ((wrong * 300).pow(2) * 4).sum();
}

// The rate of a Poisson is predicted by its logarithm.
Tensor poisson(const Tensor& out, const Tensor& targets) {
  return (out.exp() - targets.unsqueeze(-1) * out).mean();
}

Patient wrong_label(const Setup& setup) {
  const Model model = transformer(setup);
  model.input("targets").select(0, 1).select(0, 4).fill_(kVocabulary + 12);
  return make_patient(model, setup);
}

}  // namespace

std::vector<Fault> held_out_losses() {
  std::vector<Fault> faults;
  const auto add = [&faults](const std::string& name, const MakePatient& make,
                             const std::vector<Setup>& setups, Expected expected) {
    expected.module = "loss";
    for (const Setup& setup : setups) faults.push_back(fault(name, make, setup, expected));
  };
  const std::vector<Cause> nothing_counts = {Cause::kInvalid, Cause::kEmptyReduction,
                                             Cause::kDivisionByZero};
  add("empty_mask", empty_mask, {half(), bfloat16(), autocast_half()},
      {.ops = {"aten::div"}, .causes = nothing_counts});
  add("mean_a_sample", with_loss(mean_a_sample), {half(), bfloat16()},
      {.ops = {"aten::div"}, .causes = nothing_counts, .sample = 2});
  add("angle_to_itself", with_loss(angle_to_itself), {half(), bfloat16()},
      {.ops = {"aten::acos"}, .causes = {Cause::kInvalid}});
  add("cross_entropy_of_sigmoid", with_loss(cross_entropy_of_sigmoid, 12), {half(), bfloat16()},
      {.ops = {"aten::log"}, .causes = {Cause::kDivisionByZero}});
  add("smoothed_by_hand", with_loss(smoothed_by_hand), {half(), autocast_half()},
      {.ops = {"aten::mul"}, .causes = {Cause::kInvalid, Cause::kMaskedChoice}});
  add("smoothed_by_option", with_loss(smoothed_by_option), {bfloat16()},
      {.ops = {"aten::cross_entropy_loss"}, .causes = {Cause::kMaskedChoice, Cause::kInvalid}});
  add("divergence_from_one_hot", with_loss(divergence_from_one_hot), {half(), autocast_half()},
      {.ops = {"aten::log"}, .causes = {Cause::kDivisionByZero}});
  add("labels_longer_than_frames", with_loss(labels_longer_than_frames), {half(), autocast_half()},
      {.ops = {"aten::ctc_loss", "aten::_ctc_loss"},
       .causes = {Cause::kDivisionByZero, Cause::kInvalid}});
  add("contrastive", with_loss(contrastive), {half()},
      {.ops = {"aten::exp"}, .causes = {Cause::kOverflow}});
  add("evidence_bound", with_loss(evidence_bound, 20), {half(), with_micro_batches(half(), 4)},
      {.ops = {"aten::exp"}, .causes = {Cause::kOverflow}, .is_proved = true});
  add("evidence_bound", with_loss(evidence_bound, 120), {bfloat16()},
      {.ops = {"aten::exp"}, .causes = {Cause::kOverflow}});
  add("smooth_distance", with_loss(smooth_distance, 500), {half()},
      {.ops = {"aten::pow"}, .causes = {Cause::kOverflow}, .is_proved = true});
  add("squashed_density", with_loss(squashed_density, 8), {half(), bfloat16()},
      {.ops = {"aten::log"}, .causes = {Cause::kDivisionByZero}});
  add("variance_of_a_sum", with_loss(variance_of_a_sum), {half()},
      {.ops = {"aten::mul", "aten::pow", "aten::sum"},
       .causes = {Cause::kOverflow},
       .is_proved = true});
  add("poisson", with_loss(poisson, 20), {half()},
      {.ops = {"aten::exp"}, .causes = {Cause::kOverflow}, .is_proved = true});

  for (const Setup& setup : {half(), autocast_half()})
    faults.push_back(throwing("wrong_label", wrong_label, setup,
                              {.ops = {"aten::cross_entropy_loss", "aten::nll_loss_nd",
                                       "aten::nll_loss", "aten::nll_loss_forward"},
                               .module = "loss",
                               .causes = {Cause::kError}}));
  return faults;
}

}  // namespace mezzo::numerics::faults
