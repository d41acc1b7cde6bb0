#include "mezzo/numerics/replay.h"

#include <algorithm>
#include <memory>
#include <ranges>
#include <set>

#include <fmt/format.h>

#include <ATen/Context.h>

#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/recorder.h"

namespace mezzo::numerics {
namespace {

// libtorch fills what at::empty makes only beside its deterministic algorithms; kernels without one
// go on with a warning.
class Poison {
 public:
  Poison()
      : algorithms_(at::globalContext().deterministicAlgorithms()),
        warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()),
        fills_(at::globalContext().deterministicFillUninitializedMemory()) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(true);
  }
  ~Poison() {
    at::globalContext().setDeterministicAlgorithms(algorithms_, warn_only_);
    at::globalContext().setDeterministicFillUninitializedMemory(fills_);
  }
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

 private:
  bool algorithms_, warn_only_, fills_;
};

void name_all(Recorder& recorder, const Patient& patient) {
  for (const auto& [name, tensor] : patient.parameters) {
    recorder.name(name, tensor, /*is_parameter=*/true);
    if (tensor.grad().defined())
      recorder.name("the gradient of " + name, tensor.grad(), /*is_parameter=*/false);
  }
  for (const auto& [name, tensor] : patient.buffers) recorder.name(name, tensor, false);
  for (const auto& [name, tensor] : patient.inputs) recorder.name("batch." + name, tensor, false);
}

void run_step(const Patient& patient, const ReplayOptions& options, Replay& result,
              at::Tensor& loss) {
  std::unique_ptr<ChangeGuard> change;
  std::unique_ptr<Poison> poison;
  if (options.change != nullptr)
    change = std::make_unique<ChangeGuard>(*options.change, *options.before);
  if (options.poisons) poison = std::make_unique<Poison>();
  try {
    loss = patient.step();
  } catch (const std::exception& error) {
    result.error = error.what();
  }
  if (change != nullptr) result.followers = change->followers();
}

bool is_bad(const at::Tensor& tensor) {
  const at::Tensor numbers = numbers_of(tensor);
  return numbers.defined() && kernels::tensor_stats(numbers).non_finite() > 0;
}

// Tensors that ops changed in place and that are older than the step, beyond those with names. What
// is only written may be there to be looked at, with all that is in it.
void add_state_sinks(Recorder& recorder, const Patient& patient, Replay& result) {
  std::set<const void*> named;
  const auto add = [&](Sink::Sort sort, const std::string& name, const at::Tensor& tensor) {
    named.insert(tensor.unsafeGetTensorImpl());
    if (is_bad(tensor)) result.bad_sinks.push_back({sort, name, recorder.sources_of(tensor)});
  };
  for (const auto& [name, tensor] : patient.parameters) add(Sink::Sort::kParameter, name, tensor);
  for (const auto& [name, tensor] : patient.buffers) add(Sink::Sort::kState, name, tensor);
  for (const auto& [tensor, before, is_read] : recorder.overwritten()) {
    if (!is_read || named.contains(tensor.unsafeGetTensorImpl())) continue;
    if (!is_bad(tensor) || is_bad(before)) continue;
    std::vector<int64_t> sources = recorder.sources_of(tensor);
    if (!sources.empty())
      result.bad_sinks.push_back(
          {Sink::Sort::kState, "state of the optimizer", std::move(sources)});
  }
}

void look_at_sinks(Recorder& recorder, const Patient& patient, const at::Tensor& loss,
                   Replay& result) {
  if (loss.defined()) {
    result.loss = loss.detach().to(at::kDouble).sum().item<double>();
    if (is_bad(loss))
      result.bad_sinks.push_back({Sink::Sort::kLoss, "loss", recorder.sources_of(loss)});
  }
  result.grads.resize(patient.parameters.size());
  for (const auto& [name, parameter] : patient.parameters) {
    const at::Tensor grad = parameter.grad();
    if (grad.defined() && is_bad(grad))
      result.bad_sinks.push_back({Sink::Sort::kGradient, name, recorder.sources_of(grad)});
  }
  add_state_sinks(recorder, patient, result);
}

void keep_tensors(const Patient& patient, const PatientState& state, Replay& result) {
  for (size_t i = 0; i < result.grads.size(); ++i) {
    const at::Tensor grad = patient.parameters[i].second.grad();
    if (grad.defined()) result.grads[i] = grad.detach().clone();
  }
  for (const auto* list : {&patient.parameters, &patient.buffers}) {
    for (const auto& [name, tensor] : *list) {
      const at::Tensor before = state.before(tensor);
      const bool has_moved = before.defined() && !tensor.equal(before);
      result.values.push_back(has_moved ? tensor.detach().clone() : at::Tensor());
    }
  }
}

}  // namespace

int64_t Replay::bad_gradients() const {
  return std::count_if(bad_sinks.begin(), bad_sinks.end(),
                       [](const Sink& sink) { return sink.sort == Sink::Sort::kGradient; });
}

Replay replay(const Patient& patient, const PatientState& state, const ReplayOptions& options) {
  state.restore();
  Replay result;
  Recorder recorder({.hashes = options.hashes,
                     .is_poisoned = options.poisons,
                     .saves_overwritten = true,
                     .follows_this_thread = true});
  name_all(recorder, patient);
  at::Tensor loss;
  run_step(patient, options, result, loss);
  recorder.stop();
  {
    const Quiet quiet;
    look_at_sinks(recorder, patient, loss, result);
    if (options.keeps_tensors) keep_tensors(patient, state, result);
    // Of views of one memory the one saved last has what ops on the others had left there.
    for (const Recorder::Overwritten& changed : recorder.overwritten() | std::views::reverse)
      changed.tensor.resize_(changed.before.sizes()).copy_(changed.before);
    state.restore();
  }
  recorder.finish();
  result.trace = recorder.take_trace();
  return result;
}

namespace {

// Whether code that is no op was noticed depends on what lay in its memory before.
std::vector<const OpRecord*> ops_of(const Trace& trace) {
  std::vector<const OpRecord*> ops;
  for (const OpRecord& record : trace.records) {
    if (record.op != nullptr) ops.push_back(&record);
  }
  return ops;
}

}  // namespace

std::string first_difference(const Trace& one, const Trace& other) {
  const std::vector<const OpRecord*> first = ops_of(one), second = ops_of(other);
  const size_t N = std::min(first.size(), second.size());
  for (size_t i = 0; i < N; ++i) {
    const OpRecord &a = *first[i], &b = *second[i];
    const std::string& name = a.op->name;
    if (a.op != b.op) return fmt::format("op {} was {} and then {}", i, name, b.op->name);
    // A kernel that writes the very numbers that lay in its memory, as those of the run before do,
    // does not show in this run, and does in another.
    if (a.copies_empty || b.copies_empty) continue;
    if (a.hash != b.hash)
      return fmt::format("{} {}{}", to_string(a.direction) + " op", name,
                         a.module.empty() ? "" : " of " + a.module);
  }
  if (first.size() != second.size())
    return fmt::format("one run had {} ops, the other {}", first.size(), second.size());
  return "";
}

}  // namespace mezzo::numerics
