// Held-out faults that no op of the step is to blame for: what it was given, memory that nobody
// wrote, code beside the dispatcher, and ops that throw.

#include <cmath>
#include <limits>

#include <ATen/Context.h>  // memory that is filled
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Half.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Patient infinite_pixel(const Setup& setup) {
  const Model model = conv_net(setup);
  model.input("images").select(0, 2).select(0, 1).select(0, 4).select(0, 4).fill_(kInf);
  return make_patient(model, setup);
}

Patient bad_statistics(const Setup& setup) {
  const Model model = conv_net(setup);
  model.buffers[1].second.select(0, 3).fill_(kNan);
  return make_patient(model, setup);
}

Patient bad_mask_buffer(const Setup& setup) {
  TransformerParts parts;
  const Tensor bias = at::full({parts.T, parts.T}, 0.5, setup.dtype).triu(1);
  bias.select(0, 2).select(0, 5).fill_(kNan);
  parts.mask = [bias](const Tensor& scores) { return scores + bias; };
  Model model = transformer(setup, parts);
  model.buffers = {{"blocks.1.attn.bias", bias}};
  return make_patient(model, setup);
}

Patient parameter_infinite(const Setup& setup) {
  const Model model = transformer(setup);
  model.parameter("blocks.0.ln2.weight").select(0, 9).fill_(-kInf);
  return make_patient(model, setup);
}

// It grew each time it was allowed to.
Patient infinite_loss_scale(const Setup& setup) {
  const Tensor scale = at::full({}, kInf, at::kFloat);
  const Model model = mlp(setup);
  Patient patient = make_patient(model, setup);
  patient.buffers = {{"scaler.scale", scale}};
  patient.step = [model, scale] {
    const Tensor loss = model.loss({model.inputs[0].second, model.inputs[1].second});
    (loss * scale).backward();
    return loss.detach();
  };
  return patient;
}

Patient half_written(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    Tensor packed = at::empty_like(hidden.detach());
    packed.slice(1, 0, 24).copy_(hidden.slice(1, 0, 24));
    return packed.relu();
  };
  return make_patient(mlp(setup, parts), setup);
}

/// Memory of at::empty is NaN while it lives.
class FilledMemory {
 public:
  FilledMemory() { set(true); }
  ~FilledMemory() { set(false); }
  FilledMemory(const FilledMemory&) = delete;
  FilledMemory& operator=(const FilledMemory&) = delete;

 private:
  // To fill is libtorch's default where algorithms are deterministic.
  static void set(bool is_filled) {
    at::globalContext().setDeterministicAlgorithms(is_filled, /*warn_only=*/is_filled);
  }
};

Fault half_written_fault(const Setup& setup) {
  Fault silent = fault("half_written", half_written, setup,
                       {.ops = {"aten::empty_like", "aten::empty", "aten::relu"},
                        .module = "act",
                        .causes = {Cause::kUninitialized}});
  silent.fires = [](const Patient& patient) {
    const FilledMemory filled;
    return !is_finite_after_step(patient);
  };
  return silent;
}

// A kernel that reads and writes memory, and is no op.
Patient kernel_of_ones_own(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) {
    const Tensor in = hidden.detach().contiguous(), out = at::zeros_like(in);
    const c10::Half* from = in.const_data_ptr<c10::Half>();
    c10::Half* to = out.mutable_data_ptr<c10::Half>();
    for (int64_t i = 0; i < in.numel(); ++i) to[i] = std::exp(6 * static_cast<float>(from[i]));
    return hidden * out;
  };
  return make_patient(mlp(setup, parts), setup);
}

Patient token_out_of_range(const Setup& setup) {
  const Model model = transformer(setup);
  model.input("tokens").select(0, 3).select(0, 1).fill_(kVocabulary);
  return make_patient(model, setup);
}

Patient mixed_dtypes(const Setup& setup) {
  MlpParts parts;
  parts.activation = [](const Tensor& hidden) { return hidden.to(at::kFloat).relu(); };
  return make_patient(mlp(setup, parts), setup);
}

}  // namespace

std::vector<Fault> held_out_outside() {
  std::vector<Fault> faults;
  const auto external = [](std::string tensor) {
    return Expected{.causes = {Cause::kExternal}, .tensor = std::move(tensor)};
  };
  for (const Setup& setup : {half(), autocast_half(), bfloat16()}) {
    Expected pixel = external("images");
    pixel.sample = 2;
    faults.push_back(fault("infinite_pixel", infinite_pixel, setup, pixel));
  }
  for (const Setup& setup : {half(), autocast_half()})
    faults.push_back(fault("bad_statistics", bad_statistics, setup, external("bn.running_var")));
  faults.push_back(fault("bad_mask_buffer", bad_mask_buffer, with_checkpoint(half()),
                         external("blocks.1.attn.bias")));
  for (const Setup& setup : {bfloat16(), with_micro_batches(autocast_half(), 2)})
    faults.push_back(
        fault("parameter_infinite", parameter_infinite, setup, external("blocks.0.ln2.weight")));
  faults.push_back(
      fault("infinite_loss_scale", infinite_loss_scale, half(), external("scaler.scale")));

  for (const Setup& setup : {half(), bfloat16()}) faults.push_back(half_written_fault(setup));
  faults.push_back(fault("kernel_of_ones_own", kernel_of_ones_own, half(),
                         {.module = "act", .causes = {Cause::kUnseenKernel}}));
  faults.push_back(throwing("token_out_of_range", token_out_of_range, half(),
                            {.ops = {"aten::embedding", "aten::index_select"},
                             .module = "embed",
                             .causes = {Cause::kError}}));
  faults.push_back(throwing(
      "mixed_dtypes", mixed_dtypes, half(),
      {.ops = {"aten::linear", "aten::addmm"}, .module = "fc2", .causes = {Cause::kError}}));
  return faults;
}

}  // namespace mezzo::numerics::faults
