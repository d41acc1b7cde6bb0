#include "mezzo/numerics/remedies.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mezzo/base/float_format.h"
#include "mezzo/numerics/domain.h"

namespace mezzo::numerics {
namespace {

// From fp16's largest number to 1, which leaves as much room below as it makes above.
constexpr int kHalvings = 16;
constexpr int kManyHalvings = 40;

// The parts of the model that ops are in, in their order; {""} if one is in no Scope.
std::vector<std::string> modules_of(const Trace& trace, const std::set<int64_t>& ops) {
  std::vector<std::string> modules;
  for (const int64_t i : ops) {
    const std::string& module = trace.record(i).module;
    if (module.empty()) return {""};
    if (std::find(modules.begin(), modules.end(), module) == modules.end())
      modules.push_back(module);
  }
  return modules;
}

std::string place_of(const std::string& op, const std::vector<std::string>& modules) {
  return modules.front().empty() ? op : fmt::format("{} in {}", op, fmt::join(modules, ", "));
}

// Lines of a cast policy; an op of the backward pass has its rule where its forward op has.
std::string policy_lines(const std::vector<Trial::Rule>& ops) {
  std::vector<std::string> rules, calls;
  for (const auto& [op, modules] : ops) {
    const std::string name = op.starts_with("aten::") ? op.substr(6) : op;
    for (const std::string& module : modules) {
      rules.push_back(fmt::format("{}{}=fp32", module.empty() ? "" : module + ":", name));
      calls.push_back(fmt::format("CastPolicy::set(\"{}\", CastRule::kFp32{})", name,
                                  module.empty() ? "" : fmt::format(", \"{}\"", module)));
    }
  }
  return fmt::format("cast-rules = \"{}\" ({}), or .to(at::kFloat) before it",
                     fmt::join(rules, ", "), fmt::join(calls, ", "));
}

Trial op_in_fp32(const Trace& trace, const Root& root, const Finding& finding) {
  Trial trial;
  trial.change = ops_in_fp32(root);
  const std::vector<std::string> modules = modules_of(trace, trial.change.ops);
  trial.what = fmt::format("{} in fp32", place_of(finding.op, modules));
  trial.rules = {{finding.op, modules}};
  trial.advice = policy_lines(trial.rules);
  return trial;
}

Trial forward_in_fp32(const OpRecord& record, const Finding& finding) {
  Trial trial;
  trial.change.ops = {record.forward};
  trial.what = fmt::format("{}, whose backward pass this is, in fp32", finding.forward_op);
  trial.rules = {{finding.forward_op, {finding.module}}};
  trial.advice = policy_lines(trial.rules);
  return trial;
}

std::optional<Trial> scope_in_fp32(const Finding& finding) {
  if (finding.module.empty()) return std::nullopt;
  Trial trial;
  trial.change.scope = finding.module;
  trial.what = fmt::format("all of {} in fp32", finding.module);
  trial.advice = fmt::format("Autocast(device, std::nullopt, false) around {}, and fp32 inputs",
                             finding.module);
  return trial;
}

std::optional<Trial> bf16_for_fp16(const Finding& finding) {
  if (finding.dtype != at::kHalf) return std::nullopt;
  Trial trial;
  trial.change.everywhere = true;
  trial.change.type = at::kBFloat16;
  trial.what = "bf16 instead of fp16";
  trial.advice = "--precision amp-bf16 (Autocast(device, at::kBFloat16), no GradScaler)";
  return trial;
}

// All that overflowed, each in fp32: there may be several causes.
std::optional<Trial> all_in_fp32(const std::vector<Root>& roots, const Trace& trace) {
  Trial trial;
  std::set<std::string> names;
  for (const Root& root : roots) {
    if (root.external >= 0 || !is_overflow(trace.record(root.record).birth->cause)) continue;
    const Change change = ops_in_fp32(root);
    trial.change.ops.insert(change.ops.begin(), change.ops.end());
    if (trace.record(root.record).op != nullptr) names.insert(trace.record(root.record).op->name);
  }
  if (names.size() < 2) return std::nullopt;
  trial.what = fmt::format("several causes: {} in fp32", fmt::join(names, ", "));
  std::vector<std::string> rules;
  for (const std::string& name : names)
    rules.push_back((name.starts_with("aten::") ? name.substr(6) : name) + "=fp32");
  trial.advice = fmt::format("cast-rules = \"{}\"", fmt::join(rules, ", "));
  return trial;
}

Trial everything_in_fp32() {
  Trial trial;
  trial.change.everywhere = true;
  trial.what = "the whole step in fp32";
  trial.advice = "--precision fp32: then look for the one op that needs it";
  return trial;
}

// How many halvings bring the exact value below the dtype's largest number, with one to spare.
int halvings_needed(const Finding& finding) {
  if (!finding.exact.has_value() || !std::isfinite(*finding.exact)) return 1;
  const double ratio = std::abs(*finding.exact) / float_format(finding.dtype).max;
  return std::max(1, static_cast<int>(std::ceil(std::log2(std::max(ratio, 1.0)))) + 1);
}

void add_lower_scales(std::vector<Trial>& trials, const Trace& trace, const Root& root,
                      const Finding& finding) {
  Trial trial;
  trial.change.scaled = seeds_of(trace);
  if (finding.direction == Direction::kForward) trial.change.scaled = {root.record};
  if (trial.change.scaled.empty()) return;
  int last = 0;
  for (const int halvings : {halvings_needed(finding), kHalvings, kManyHalvings}) {
    if (halvings <= last) continue;
    last = halvings;
    trial.change.factor = std::ldexp(1.0, -halvings);
    trial.what = fmt::format("a loss scale 2^{} times lower", halvings);
    trial.advice =
        "GradScaler, which finds it (dynamic), or a lower init_scale; --loss-scale dynamic. A loss "
        "that is scaled by hand: divide the factor";
    trials.push_back(trial);
  }
}

Trial higher_scale(const Trace& trace) {
  Trial trial;
  trial.change.scaled = seeds_of(trace);
  trial.change.factor = 0x1p16;
  trial.what = "a loss scale of 65536";
  trial.advice = "GradScaler, or --loss-scale dynamic";
  return trial;
}

// The scalar that its dtype cannot hold and that stands nearest before the op.
std::optional<Trial> larger_scalar(const Trace& trace, const Root& root) {
  const int64_t first = std::max<int64_t>(0, root.record - 40);
  for (int64_t i = std::max(root.inner, root.record); i >= first; --i) {
    const OpRecord& record = trace.record(i);
    if (!record.rounded_scalar.has_value() || !record.rounded_scalar->is_zero) continue;
    Trial trial;
    constexpr double kEps = 1e-4;  // fp16 has it, and bf16
    trial.change.scalars[i] = {record.rounded_scalar->argument, kEps};
    trial.what =
        fmt::format("{:g} instead in {} ({})", kEps, record.op->name, record.rounded_scalar->note);
    trial.advice = fmt::format("an eps of {:g} or more there, or that part in fp32", kEps);
    return trial;
  }
  return std::nullopt;
}

std::optional<Trial> guarded(const Trace& trace, int64_t i) {
  if (i < 0 || trace.record(i).op == nullptr) return std::nullopt;
  const std::string advice = domain_advice(trace.record(i).op->name);
  if (advice.empty()) return std::nullopt;
  Trial trial;
  trial.change.guards = {i};
  trial.what = fmt::format("{} kept within its domain", trace.record(i).op->name);
  trial.advice = advice;
  return trial;
}

void add_guards(std::vector<Trial>& trials, const Trace& trace, const Root& root) {
  const OpRecord& record = trace.record(root.record);
  const auto add = [&](int64_t i) {
    const std::optional<Trial> trial = guarded(trace, i);
    if (!trial.has_value()) return;
    trials.push_back(*trial);
    for (const int64_t other : root.alike) {
      const OpRecord& alike = trace.record(other);
      trials.back().change.guards.insert(record.direction == Direction::kBackward ? alike.forward
                                                                                  : other);
    }
  };
  if (record.direction == Direction::kBackward) {
    int64_t forward = record.forward;
    for (int depth = 0; forward >= 0 && depth < 4; ++depth, forward = trace.record(forward).parent)
      add(forward);
  } else {
    if (root.inner != root.record) add(root.inner);
    add(root.record);
  }
}

// All of them: one that is left is enough to spoil the step.
Trial cleaned_externals(const std::vector<Root>& roots, const Trace& trace,
                        const Finding& finding) {
  Trial trial;
  for (const Root& root : roots) {
    if (root.external >= 0)
      trial.cleaned.insert(trace.externals[static_cast<size_t>(root.external)].name);
  }
  const size_t others = trial.cleaned.size() - 1;
  trial.what = fmt::format("zeros for what is not finite in {}{}", finding.external,
                           others == 0 ? "" : fmt::format(" and {} more", others));
  if (finding.sample.has_value()) {
    trial.advice =
        fmt::format("leave sample {} out of the batch, and look into the data", *finding.sample);
  } else if (finding.external.starts_with("batch.")) {
    trial.advice = "look into the data: this batch is not finite";
  } else {
    trial.advice =
        "an earlier step left it so: go back to the last good checkpoint (train --resume)";
  }
  return trial;
}

Trial zeros_for_empty(const Root& root) {
  Trial trial;
  trial.change.zeroed = {root.record};
  trial.change.zeroed.insert(root.alike.begin(), root.alike.end());
  trial.what = "zeros instead of uninitialised memory";
  trial.advice = "at::zeros instead of at::empty, or write all of it before it is read";
  return trial;
}

void add(std::vector<Trial>& trials, std::optional<Trial> trial) {
  if (trial.has_value()) trials.push_back(std::move(*trial));
}

void add_precisions(std::vector<Trial>& trials, const std::vector<Root>& roots,
                    const Replay& before, const Finding& finding) {
  add(trials, scope_in_fp32(finding));
  add(trials, bf16_for_fp16(finding));
  add(trials, all_in_fp32(roots, before.trace));
  trials.push_back(everything_in_fp32());
}

}  // namespace

Trial with_followers(Trial trial, const Trace& trace, const std::set<int64_t>& followers) {
  std::map<std::string, std::set<int64_t>> lowered;
  for (const int64_t i : followers) {
    const OpRecord& record = trace.record(i);
    if (record.op != nullptr && is_lowered(record.op->name)) lowered[record.op->name].insert(i);
  }
  if (trial.rules.empty() || lowered.empty()) return trial;
  std::string places;
  for (const auto& [op, records] : lowered) {
    trial.rules.push_back({op, modules_of(trace, records)});
    places += fmt::format(", {}", place_of(op, trial.rules.back().modules));
  }
  trial.what.insert(trial.what.find(" in fp32"), places);
  trial.advice = policy_lines(trial.rules);
  return trial;
}

bool is_overflow(Cause cause) {
  return cause == Cause::kOverflow || cause == Cause::kInnerOverflow;
}

Trial with_lower_scale(Trial trial, const Trace& trace) {
  const std::set<int64_t> seeds = seeds_of(trace);
  trial.change.scaled.insert(seeds.begin(), seeds.end());
  trial.change.factor *= std::ldexp(1.0, -kHalvings);
  trial.what += fmt::format(", and a loss scale 2^{} times lower", kHalvings);
  return trial;
}

Change ops_in_fp32(const Root& root) {
  Change change;
  change.ops = {root.record};
  change.ops.insert(root.alike.begin(), root.alike.end());
  return change;
}

std::set<int64_t> seeds_of(const Trace& trace) {
  std::set<int64_t> seeds;
  int64_t last = -1;
  bool was_in_backward = false;
  for (int64_t i = 0; i < static_cast<int64_t>(trace.records.size()); ++i) {
    const OpRecord& record = trace.record(i);
    const bool is_in_backward = !record.node.empty();
    if (record.op != nullptr && record.parent < 0 && record.op->name == "aten::ones_like") last = i;
    if (is_in_backward && !was_in_backward && last >= 0) seeds.insert(last);
    was_in_backward = is_in_backward;
  }
  return seeds;
}

std::vector<Trial> trials_for(const std::vector<Root>& roots, const Replay& before,
                              const Finding& finding) {
  const Root& root = roots.front();
  const Trace& trace = before.trace;
  std::vector<Trial> trials;
  if (finding.cause == Cause::kExternal) return {cleaned_externals(roots, trace, finding)};
  if (finding.cause == Cause::kUninitialized) return {zeros_for_empty(root)};
  const OpRecord& record = trace.record(root.record);
  const bool is_backward = finding.direction == Direction::kBackward;
  const bool may_be_scale = is_backward && finding.cause == Cause::kUnseenKernel;
  if (is_overflow(finding.cause) || may_be_scale) {
    if (is_backward) {
      add_lower_scales(trials, trace, root, finding);
      if (record.forward >= 0) trials.push_back(forward_in_fp32(record, finding));
    }
    if (record.op != nullptr) trials.push_back(op_in_fp32(trace, root, finding));
    if (!is_backward && base_name(finding.op) == "mul")
      add_lower_scales(trials, trace, root, finding);
    add_precisions(trials, roots, before, finding);
    return trials;
  }
  if (finding.cause == Cause::kUnderflow) trials.push_back(higher_scale(trace));
  add(trials, larger_scalar(trace, root));
  add_guards(trials, trace, root);
  if (has_16_bits(finding.dtype)) {
    if (record.op != nullptr) trials.push_back(op_in_fp32(trace, root, finding));
    if (is_backward && record.forward >= 0) trials.push_back(forward_in_fp32(record, finding));
    add_precisions(trials, roots, before, finding);
  }
  return trials;
}

}  // namespace mezzo::numerics
