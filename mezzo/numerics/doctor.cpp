#include "mezzo/numerics/doctor.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/nan_to_num.h>

#include "mezzo/base/check.h"
#include "mezzo/numerics/agreement.h"
#include "mezzo/numerics/magnitude_log.h"
#include "mezzo/numerics/parts.h"
#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/recorder.h"
#include "mezzo/numerics/remedies.h"
#include "mezzo/numerics/replay.h"
#include "mezzo/numerics/roots.h"

namespace mezzo::numerics {
namespace {

constexpr int kMostSuspects = 6;

// An op's own result, and a copy of it that the op made on the way.
bool is_same_story(const Finding& one, const Finding& other) {
  return one.exact.has_value() && one.exact == other.exact && one.element == other.element &&
         one.sizes == other.sizes && one.module == other.module &&
         one.direction == other.direction && one.cause == other.cause;
}

class Examination {
 public:
  Examination(const Patient& patient, const DoctorOptions& options)
      : patient_(patient), options_(options), state_(patient) {
    for (const auto* list : {&patient.parameters, &patient.buffers}) {
      for (const auto& [name, tensor] : *list) starts_.push_back(state_.before(tensor));
    }
  }

  Diagnosis run() {
    {
      const MagnitudeLog log;
      before_ = replay(patient_, state_, {.hashes = options_.checks_replay, .keeps_tensors = true});
      diagnosis_.parts = parts_of(before_.trace, log);
    }
    diagnosis_.loss = before_.loss;
    diagnosis_.unread = before_.trace.unread;
    diagnosis_.not_finite = not_finite_of(before_);
    // Not code that is no op: whether it is noticed depends on what lay in its memory before.
    diagnosis_.ops = std::count_if(before_.trace.records.begin(), before_.trace.records.end(),
                                   [](const OpRecord& record) { return record.op != nullptr; });
    if (options_.checks_replay) check_replay();
    roots_ = find_roots(before_);
    if (!before_.error.empty()) {
      diagnosis_.findings.push_back(finding_of_error(before_));
    }
    keep_harmful();
    look_for_uninitialized();
    add_findings();
    keep_parts_of_one_micro_batch();
    if (options_.tries_remedies && !roots_.empty() && before_.error.empty()) try_remedies();
    return std::move(diagnosis_);
  }

 private:
  void check_replay() {
    const Replay again = replay(patient_, state_, {.hashes = true});
    const std::string difference = first_difference(before_.trace, again.trace);
    diagnosis_.is_reproduced = difference.empty();
    if (difference.empty()) return;
    const Replay third = replay(patient_, state_, {.hashes = true});
    const bool once = first_difference(again.trace, third.trace).empty() ||
                      first_difference(before_.trace, third.trace).empty();
    diagnosis_.not_reproduced =
        once ? fmt::format(
                   "one run of three differs, from {} on: the hardware, or something outside "
                   "the step, changed a value",
                   difference)
             : fmt::format("every run differs, from {} on: it is not deterministic", difference);
  }

  // A bad checkpoint is one finding, however many parameters it has.
  void add_findings() {
    const auto is_parameter = [&](const Root& root) {
      return root.external >= 0 &&
             source_->trace.externals[static_cast<size_t>(root.external)].is_parameter;
    };
    const int64_t parameters = std::count_if(roots_.begin(), roots_.end(), is_parameter);
    bool has_told = false;
    for (const Root& root : roots_) {
      if (is_parameter(root) && std::exchange(has_told, true)) continue;
      Finding finding = finding_of(root, *source_, patient_);
      if (is_parameter(root) && parameters > 1)
        finding.note = fmt::format("{} of {} parameters are not finite", parameters,
                                   patient_.parameters.size());
      if (diagnosis_.findings.empty() || !is_same_story(diagnosis_.findings.front(), finding))
        diagnosis_.findings.push_back(std::move(finding));
    }
  }

  void keep_parts_of_one_micro_batch() {
    const int64_t one = diagnosis_.findings.empty() ? 1 : diagnosis_.findings.front().micro_batch;
    std::erase_if(diagnosis_.parts, [one](const PartMagnitudes& part) {
      return part.direction != Direction::kOptimizer && part.micro_batch != one;
    });
  }

  // Replays that are needed at most once.
  const Replay& in_fp32_everywhere() {
    if (!fp32_.has_value()) {
      Change change;
      change.everywhere = true;
      fp32_ = replay(patient_, state_,
                     {.keeps_tensors = true, .change = &change, .before = &before_.trace});
      if (fp32_->error.empty()) diagnosis_.fp32_loss = fp32_->loss;
    }
    return *fp32_;
  }

  // Losses, gradients, and how parameters and buffers moved.
  bool differ(const Replay& a, const Replay& b) const {
    return !losses_agree(a, b) || gradients_differ(a, b) || moved_otherwise(a, b, starts_);
  }

  // What reaches no sink is a finding only if the step is wrong by it.
  void keep_harmful() {
    std::vector<Root> kept, harmless;
    int suspects = 0;
    for (Root& root : roots_) {
      auto& list = !root.is_swallowed || is_harmful(root, suspects) ? kept : harmless;
      list.push_back(std::move(root));
    }
    if (kept.empty()) kept = harmful_together(harmless);
    roots_ = std::move(kept);
    merge_with_backward();
  }

  // Overflows that each alone would do no harm, as another one does the same.
  std::vector<Root> harmful_together(const std::vector<Root>& roots) {
    std::vector<Root> overflows;
    Change change;
    for (const Root& root : roots) {
      if (!is_overflow(record_of(root.inner).birth->cause)) continue;
      overflows.push_back(root);
      change.ops.merge(ops_in_fp32(root).ops);
    }
    const bool is_harm = overflows.size() > 1 && may_be_wrong() && changes_step(change);
    return is_harm ? overflows : std::vector<Root>();
  }

  const OpRecord& record_of(int64_t i) const { return before_.trace.record(i); }

  bool is_harmful(const Root& root, int& suspects) {
    const OpRecord& record = record_of(root.record);
    switch (record_of(root.inner).birth->cause) {
      case Cause::kOverflow:
      case Cause::kInnerOverflow:
        if (record.direction == Direction::kOptimizer && record.op->handle.schema().is_mutable())
          return true;
        if (suspects >= kMostSuspects || !may_be_wrong()) return false;
        ++suspects;
        return changes_step(ops_in_fp32(root));
      case Cause::kCollidingIntegers:
        return true;
      case Cause::kUnderflow:
        return loses_gradients(before_, in_fp32_everywhere());
      case Cause::kLostUpdate:
        return has_not_moved(record_of(root.inner));
      case Cause::kInvalid:
      case Cause::kDivisionByZero:
        return is_replaced(root);
      default:
        return false;
    }
  }

  // By numbers of nan_to_num, which look right and are made up.
  bool is_replaced(const Root& root) const {
    std::set<int64_t> bad = {root.record, root.inner};
    for (int64_t i = root.record; i < static_cast<int64_t>(before_.trace.records.size()); ++i) {
      const OpRecord& record = record_of(i);
      const bool reads_bad = std::any_of(record.sources.begin(), record.sources.end(),
                                         [&](int64_t source) { return bad.contains(source); });
      if (!reads_bad) continue;
      if (record.op != nullptr && base_name(record.op->name) == "nan_to_num") return true;
      bad.insert(i);
    }
    return false;
  }

  // If the step is what it is in fp32, no suspect did it harm.
  bool may_be_wrong() {
    if (!before_.is_finite()) return true;
    const Replay& fp32 = in_fp32_everywhere();
    return !fp32.error.empty() || differ(before_, fp32);
  }

  bool changes_step(const Change& change) {
    const Replay changed = replay(
        patient_, state_, {.keeps_tensors = true, .change = &change, .before = &before_.trace});
    return changed.error.empty() && differ(before_, changed);
  }

  bool has_not_moved(const OpRecord& record) const {
    const void* memory = record.outputs[record.birth->output].memory;
    for (size_t i = 0; i < before_.values.size(); ++i) {
      const auto& named = i < patient_.parameters.size()
                              ? patient_.parameters[i]
                              : patient_.buffers[i - patient_.parameters.size()];
      if (named.second.storage().unsafeGetStorageImpl() != memory) continue;
      if (!before_.values[i].defined()) return true;
      const at::Tensor equal = before_.values[i].eq(starts_[i]);
      return equal.sum().item<double>() >= 0.99 * static_cast<double>(equal.numel());
    }
    return false;
  }

  // A backward root whose forward op was masked out is one story with it.
  void merge_with_backward() {
    for (const Root& root : roots_) {
      if (root.external >= 0 || root.is_swallowed || record_of(root.record).forward < 0) continue;
      std::erase_if(roots_, [&](const Root& other) {
        return other.is_swallowed && other.record == record_of(root.record).forward;
      });
      return;
    }
  }

  // Also where something else is wrong: what garbage does downstream is another thing each time.
  void look_for_uninitialized() {
    const auto& records = before_.trace.records;
    const bool may_be = std::any_of(records.begin(), records.end(), [](const OpRecord& record) {
      return record.op != nullptr && record.op->leaves_garbage && record.parent < 0;
    });
    if (!may_be) return;
    poisoned_ = replay(patient_, state_, {.poisons = true});
    for (Root& root : find_roots(*poisoned_)) {
      if (root.external >= 0 || root.is_swallowed) continue;
      const OpRecord& record = poisoned_->trace.record(root.record);
      if (record.birth->cause != Cause::kUninitialized || record.parent >= 0) continue;
      roots_ = {std::move(root)};
      source_ = &*poisoned_;
      return;
    }
  }

  // The trials come in order of what they cost a user: the first that is proved is the one to take.
  void try_remedies() {
    int left = options_.max_trials;
    for (const Trial& trial : trials_for(roots_, *source_, diagnosis_.findings.front())) {
      if (left-- <= 0 || is_proved_by(trial)) break;
      if (!leaves_gradients_ || !trial.change.scaled.empty()) continue;
      if (left-- <= 0 || is_proved_by(with_lower_scale(trial, source_->trace))) break;
    }
    std::stable_sort(diagnosis_.remedies.begin(), diagnosis_.remedies.end(),
                     [](const Remedy& a, const Remedy& b) { return a.is_proved > b.is_proved; });
  }

  bool is_proved_by(const Trial& trial) {
    diagnosis_.remedies.push_back(tried(trial));
    return diagnosis_.remedies.back().is_proved;
  }

  Replay run_trial(const Trial& trial, const Change& change) {
    Patient cleaned = patient_;
    if (!trial.cleaned.empty()) {
      cleaned.step = [&] {
        clean(trial);
        return patient_.step();
      };
    }
    const bool poisons = source_ == (poisoned_.has_value() ? &*poisoned_ : nullptr);
    return replay(
        cleaned, state_,
        {.poisons = poisons, .keeps_tensors = true, .change = &change, .before = &source_->trace});
  }

  void clean(const Trial& trial) const {
    const Quiet quiet;
    const auto clean_named = [&](const std::string& name, const at::Tensor& tensor) {
      if (trial.cleaned.contains(name)) tensor.copy_(at::nan_to_num(tensor, 0.0, 0.0, 0.0));
    };
    for (const auto& [name, tensor] : patient_.parameters) clean_named(name, tensor);
    for (const auto& [name, tensor] : patient_.buffers) clean_named(name, tensor);
    for (const auto& [name, tensor] : patient_.inputs) clean_named("batch." + name, tensor);
  }

  // At the larger of both loss scales: a gradient that it makes too large shows, one that the
  // smaller makes too small would be as wrong in fp32, where its parameter has 16 bits.
  Replay in_fp32(const Trial& trial) {
    Change reference = trial.change;
    reference.everywhere = true;
    reference.type = at::kFloat;
    if (reference.factor < 1.0) reference.scaled.clear();
    return run_trial(trial, reference);
  }

  // The step in fp32 is another one if it is guarded.
  bool needs_own_reference(const Trial& trial) const {
    const Change& change = trial.change;
    return source_ != &before_ || !trial.cleaned.empty() || !change.guards.empty() ||
           !change.scalars.empty() || !change.zeroed.empty() || change.factor > 1.0;
  }

  Remedy tried(const Trial& trial) {
    Remedy remedy;
    remedy.change = trial.what;
    remedy.advice = trial.advice;
    leaves_gradients_ = false;
    const Replay changed = run_trial(trial, trial.change);
    if (!changed.error.empty()) {
      remedy.outcome = "the step failed: " + changed.error.substr(0, changed.error.find('\n'));
      return remedy;
    }
    leaves_gradients_ = changed.bad_gradients() > 0 && std::isfinite(changed.loss);
    if (!changed.is_finite()) {
      remedy.outcome = fmt::format("loss {:.6g}, {} gradients still not finite",
                                   std::isnan(changed.loss) ? std::abs(changed.loss) : changed.loss,
                                   changed.bad_gradients());
      return remedy;
    }
    const Replay own = needs_own_reference(trial) ? in_fp32(trial) : Replay();
    const Replay& fp32 = needs_own_reference(trial) ? own : in_fp32_everywhere();
    remedy.outcome = fmt::format("loss {:.6g}, in fp32 {:.6g}", changed.loss, fp32.loss);
    if (!fp32.error.empty() || !losses_agree(changed, fp32)) return remedy;
    if (loses_gradients(changed, fp32)) {
      remedy.outcome += ", but gradients that are 0 and not in fp32";
    } else if (may_still_be_wrong(changed) && is_another_step(trial, changed, fp32)) {
      remedy.outcome += ", but other gradients than in fp32";
    } else {
      remedy.is_proved = true;
      const Trial whole = with_followers(trial, source_->trace, changed.followers);
      remedy.change = whole.what;
      remedy.advice = whole.advice;
    }
    return remedy;
  }

  // Where nothing shows that it was, the gradients decide; elsewhere they may be roundings alone.
  bool may_still_be_wrong(const Replay& changed) const {
    const std::vector<Root> left = find_roots(changed);
    return before_.is_finite() || std::any_of(left.begin(), left.end(), [&](const Root& root) {
             const OpRecord& record = changed.trace.record(root.inner);
             return root.external < 0 && is_overflow(record.birth->cause);
           });
  }

  // At a lower scale parameters move otherwise, unless the step divides by it.
  bool is_another_step(const Trial& trial, const Replay& changed, const Replay& fp32) const {
    const double factor = std::min(1.0, trial.change.factor);
    return gradients_differ(changed, fp32, factor) ||
           (factor == 1.0 && moved_otherwise(changed, fp32, starts_));
  }

  const Patient& patient_;
  const DoctorOptions& options_;
  PatientState state_;
  std::vector<at::Tensor> starts_;  // of parameters and buffers, as Replay::values has their ends
  Replay before_;
  std::optional<Replay> fp32_, poisoned_;
  const Replay* source_ = &before_;  // whose roots are the findings
  std::vector<Root> roots_;
  bool leaves_gradients_ = false;  // the last trial's loss was finite, its gradients were not
  Diagnosis diagnosis_;
};

}  // namespace

Diagnosis diagnose(const Patient& patient, const DoctorOptions& options) {
  MEZZO_CHECK(patient.step != nullptr, "numerics.diagnose", "the patient has no step to run");
  { const Recorder none_else; }  // refused here, before anything has run, within another diagnosis
  return Examination(patient, options).run();
}

}  // namespace mezzo::numerics
