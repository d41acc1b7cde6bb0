// Held-out faults around attention: its logits, its masks, its positions.

#include <cmath>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kLowestHalf = -65504;

void enlarge_queries_and_keys(const Model& model, double factor) {
  model.parameter("blocks.1.attn.qkv.weight").narrow(0, 0, 2 * kChannels).mul_(factor);
}

Patient unscaled_logits(const Setup& setup) {
  TransformerParts parts;
  parts.scores = [](const Tensor& q, const Tensor& k) { return q.matmul(k.transpose(-2, -1)); };
  const Model model = transformer(setup, parts);
  enlarge_queries_and_keys(model, 100);
  return make_patient(model, setup);
}

// The division comes too late.
Patient scaled_after(const Setup& setup) {
  TransformerParts parts;
  parts.scores = [](const Tensor& q, const Tensor& k) {
    return q.matmul(k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(-1)));
  };
  const Model model = transformer(setup, parts);
  enlarge_queries_and_keys(model, 100);
  return make_patient(model, setup);
}

Patient infinity_times_zero(const Setup& setup) {
  TransformerParts parts;
  parts.mask = [](const Tensor& scores) {
    const int64_t T = scores.size(-1);
    const Tensor may_see = at::ones({T, T}, scores.options().requires_grad(false)).tril();
    return scores + (1 - may_see) * -kInf;
  };
  return make_patient(transformer(setup, parts), setup);
}

// A sample that is empty is padding as query and as key, and the lowest number twice is -Inf.
Patient two_lowest_added(const Setup& setup) {
  TransformerParts parts;
  parts.mask = [](const Tensor& scores) {
    const int64_t B = scores.size(0), T = scores.size(-1);
    Tensor is_padding = at::zeros({B, T}, scores.options().requires_grad(false));
    is_padding.select(0, 2).fill_(1);
    const Tensor of_keys = is_padding.view({B, 1, 1, T}) * kLowestHalf;
    const Tensor of_queries = is_padding.view({B, 1, T, 1}) * kLowestHalf;
    return scores + (of_keys + of_queries);
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient no_temperature(const Setup& setup) {
  TransformerParts parts;
  parts.softmax = [](const Tensor& scores) { return (scores / 0.0).softmax(-1); };
  return make_patient(transformer(setup, parts), setup);
}

// The first two positions of every sample see nothing: a window that begins after the diagonal.
Patient window_misses_start(const Setup& setup) {
  TransformerParts parts;
  parts.mask = [](const Tensor& scores) {
    const int64_t T = scores.size(-1);
    const Tensor may_see = at::ones({T, T}, at::kBool).tril(-2);
    return scores.masked_fill(may_see.logical_not(), -kInf);
  };
  return make_patient(transformer(setup, parts), setup);
}

Tensor rotate(const Tensor& x, const Tensor& angle) {
  const Tensor a = x.slice(-1, 0, 4), b = x.slice(-1, 4, 8);
  const Tensor cos = angle.cos().to(x.scalar_type()), sin = angle.sin().to(x.scalar_type());
  return at::cat({a * cos - b * sin, a * sin + b * cos}, -1);
}

Patient rotary_in(at::ScalarType dtype, const Setup& setup) {
  TransformerParts parts;
  parts.B = 1;
  parts.T = 400;
  parts.blocks = 2;
  parts.scores = [dtype](const Tensor& q, const Tensor& k) {
    const Tensor position = at::arange(q.size(-2)).to(dtype);
    const Tensor frequency = at::arange(4).to(dtype).mul(-2).exp();
    const Tensor angle = position.unsqueeze(-1) * frequency;
    return rotate(q, angle).matmul(rotate(k, angle).transpose(-2, -1)) * 0.35;
  };
  return make_patient(transformer(setup, parts), setup);
}

Patient rotary_positions(const Setup& setup) { return rotary_in(setup.dtype, setup); }

Fault rotary_positions_fault(const Setup& setup) {
  Fault silent = fault("rotary_positions", rotary_positions, setup,
                       {.ops = {"aten::to", "aten::_to_copy", "aten::copy_"},
                        .module = "blocks.1.attn",
                        .causes = {Cause::kCollidingIntegers}});
  silent.fires = [setup](const Patient& patient) {
    const Patient exact = rotary_in(at::kFloat, setup);
    return patient.step().item<double>() != exact.step().item<double>();
  };
  return silent;
}

}  // namespace

std::vector<Fault> held_out_attention() {
  std::vector<Fault> faults;
  for (const Setup& setup : {half(), autocast_half(), with_checkpoint(autocast_half())}) {
    const Expected overflow{.ops = {"aten::matmul", "aten::bmm"},
                            .module = "blocks.1.attn",
                            .causes = {Cause::kOverflow},
                            .is_proved = true};
    faults.push_back(fault("unscaled_logits", unscaled_logits, setup, overflow));
  }
  faults.push_back(fault("scaled_after", scaled_after, with_micro_batches(half(), 2),
                         {.ops = {"aten::matmul", "aten::bmm"},
                          .module = "blocks.1.attn",
                          .causes = {Cause::kOverflow},
                          .is_proved = true}));
  for (const Setup& setup : {half(), bfloat16()})
    faults.push_back(
        fault("infinity_times_zero", infinity_times_zero, setup,
              {.ops = {"aten::mul"}, .module = "blocks.1.attn", .causes = {Cause::kInvalid}}));
  faults.push_back(fault("two_lowest_added", two_lowest_added, half(),
                         {.ops = {"aten::add"},
                          .module = "blocks.1.attn",
                          .causes = {Cause::kOverflow},
                          .is_proved = true,
                          .sample = 2}));
  for (const Setup& setup : {half(), autocast_half()})
    faults.push_back(fault(
        "no_temperature", no_temperature, setup,
        {.ops = {"aten::div"}, .module = "blocks.1.attn", .causes = {Cause::kDivisionByZero}}));
  for (const Setup& setup : {bfloat16(), with_checkpoint(autocast_half())})
    faults.push_back(fault("window_misses_start", window_misses_start, setup,
                           {.ops = {"aten::softmax", "aten::_softmax"},
                            .module = "blocks.1.attn",
                            .causes = {Cause::kMaskedRow}}));
  faults.push_back(rotary_positions_fault(bfloat16()));
  return faults;
}

}  // namespace mezzo::numerics::faults
