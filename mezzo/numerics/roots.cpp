#include "mezzo/numerics/roots.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include "mezzo/numerics/scalars.h"

namespace mezzo::numerics {
namespace {

bool is_meant(const TensorFacts& facts) { return (facts.kinds & ~facts.intended) == 0; }

// An infinity that came in explains the bad result: it is there in the exact one too.
bool passes_infinity_on(const OpRecord& record) {
  const Birth& birth = *record.birth;
  const bool is_masks = birth.cause == Cause::kMaskedRow || birth.cause == Cause::kMaskedChoice;
  if (is_masks || std::isfinite(birth.exact.value_or(0.0))) return false;
  if (record.op == nullptr || !record.op->is_pointwise) return true;
  return std::any_of(birth.operands.begin(), birth.operands.end(), [](const Operand& operand) {
    return std::isinf(operand.value.value_or(0.0));
  });
}

bool is_root(const OpRecord& record) { return record.birth.has_value() && !record.reads_bad; }

bool leaves_what_is_meant(const OpRecord& record) {
  return std::all_of(record.outputs.begin(), record.outputs.end(), is_meant);
}

// Whose arguments do not explain it either, so that it is what a person would call the place.
int64_t outermost_birth(const Trace& trace, int64_t i) {
  while (trace.record(i).parent >= 0 && is_root(trace.record(trace.record(i).parent)) &&
         trace.record(trace.record(i).parent).birth->cause != Cause::kUninitialized)
    i = trace.record(i).parent;
  return i;
}

bool is_within(const Trace& trace, int64_t i, int64_t outer) {
  while (i > outer) i = trace.record(i).parent;
  return i == outer;
}

/// The bad numbers' ways, followed back from the sinks.
class Search {
 public:
  explicit Search(const Replay& replay) : trace_(replay.trace) {
    for (const Sink& sink : replay.bad_sinks) {
      for (const int64_t source : sink.sources) visit(source, -1);
    }
    while (!open_.empty()) {
      const int64_t i = open_.front();
      open_.pop_front();
      expand(i);
    }
  }

  const std::set<int64_t>& births() const { return births_; }
  const std::map<size_t, int64_t>& externals() const { return externals_; }
  bool is_explained(int64_t birth) const { return explained_.contains(birth); }
  bool has_reached(int64_t i) const { return next_.contains(i); }

  std::vector<int64_t> way_from(int64_t i) const {
    std::vector<int64_t> way;
    std::set<int64_t> seen;
    for (auto at = next_.find(i);
         at != next_.end() && at->second >= 0 && seen.insert(at->first).second;
         at = next_.find(at->second))
      way.push_back(at->second);
    return way;
  }

 private:
  void visit(int64_t i, int64_t from) {
    if (next_.emplace(i, from).second) open_.push_back(i);
  }

  void expand(int64_t i) {
    const OpRecord& record = trace_.record(i);
    if (is_root(record)) {
      births_.insert(i);
      add_guilty_inputs(i);
      return;
    }
    // What is meant is innocent beside what is not.
    const bool reads_bad = record.reads_bad;
    for (const size_t external : record.externals) {
      if (!reads_bad || !is_meant(trace_.externals[external].facts))
        externals_.emplace(external, i);
    }
    for (const int64_t source : record.sources) {
      if (!reads_bad || !leaves_what_is_meant(trace_.record(source))) visit(source, i);
    }
    // A result of an op within may be its own: the outer one names the same memory.
    if (record.parent >= 0 && is_root(trace_.record(record.parent)))
      visit(record.parent, next_.at(i));
  }

  // An infinity from before the step that is no mask's, however it came here.
  void add_guilty_inputs(int64_t i) {
    std::set<int64_t> seen;
    std::vector<int64_t> open = {i};
    while (!open.empty()) {
      const int64_t here = open.back();
      open.pop_back();
      if (!seen.insert(here).second) continue;
      for (const size_t external : trace_.record(here).externals) {
        const ExternalRecord& from = trace_.externals[external];
        const bool is_mask = (from.kinds == kNegativeInf || from.name.empty()) &&
                             !passes_infinity_on(trace_.record(i));
        if (is_mask) continue;
        externals_.emplace(external, i);
        explained_.insert(i);
      }
      for (const int64_t source : trace_.record(here).sources) open.push_back(source);
    }
  }

  const Trace& trace_;
  std::map<int64_t, int64_t> next_;  // towards the sink
  std::deque<int64_t> open_;
  std::set<int64_t> births_;
  std::set<int64_t> explained_;          // births that are an external's doing
  std::map<size_t, int64_t> externals_;  // and a reader of each
};

bool is_alike(const Trace& trace, const Root& a, const Root& b) {
  if (a.external >= 0 || b.external >= 0) return false;
  const OpRecord &one = trace.record(a.record), &other = trace.record(b.record);
  return one.op == other.op && one.direction == other.direction &&
         one.birth->cause == other.birth->cause && a.is_swallowed == b.is_swallowed;
}

void add_root(const Trace& trace, std::vector<Root>& roots, Root root) {
  for (Root& known : roots) {
    if (is_alike(trace, known, root)) {
      known.alike.push_back(root.record);
      return;
    }
  }
  roots.push_back(std::move(root));
}

// The deepest birth within, the earliest where there are several.
int64_t innermost(const Trace& trace, int64_t outer) {
  int64_t inner = outer;
  const auto N = static_cast<int64_t>(trace.records.size());
  for (int64_t i = outer + 1; i < N && is_within(trace, i, outer); ++i) {
    if (is_root(trace.record(i)) && trace.record(i).parent == inner) inner = i;
  }
  return inner;
}

std::vector<Root> swallowed_roots(const Trace& trace, const std::set<int64_t>& known) {
  std::vector<Root> roots;
  for (int64_t i = 0; i < static_cast<int64_t>(trace.records.size()); ++i) {
    if (!is_root(trace.record(i)) || trace.record(i).birth->cause == Cause::kUninitialized)
      continue;
    const int64_t outer = outermost_birth(trace, i);
    if (outer != i || known.contains(outer)) continue;
    Root root;
    root.record = outer;
    root.inner = innermost(trace, outer);
    root.is_swallowed = true;
    add_root(trace, roots, std::move(root));
  }
  return roots;
}

std::string name_of(const OpRecord& record) {
  if (record.op != nullptr) return record.op->name;
  return record.node.empty() ? "a kernel that is no op" : "a kernel of " + record.node;
}

// By its sizes, as they are or transposed, as a gradient's may be on its way.
bool may_be_of_parameter(const Finding& finding, const Patient& patient) {
  const auto sorted = [](std::vector<int64_t> sizes) {
    std::sort(sizes.begin(), sizes.end());
    return sizes;
  };
  if (finding.direction != Direction::kBackward) return finding.direction == Direction::kOptimizer;
  return std::any_of(patient.parameters.begin(), patient.parameters.end(), [&](const auto& named) {
    return sorted(named.second.sizes().vec()) == sorted(finding.sizes);
  });
}

std::optional<int64_t> sample_of(const Finding& finding, const Patient& patient) {
  if (patient.inputs.empty() || finding.element.empty()) return std::nullopt;
  const at::Tensor& batch = patient.inputs.front().second;
  if (!batch.defined() || batch.dim() == 0) return std::nullopt;
  const int64_t B = batch.size(0), N = finding.sizes.front();
  if (N == B) return finding.element.front();
  const int64_t T = batch.dim() > 1 ? batch.size(1) : 1;
  if (N == B * T && T > 1) return finding.element.front() / T;
  return std::nullopt;
}

constexpr size_t kMostLinks = 8;
constexpr int64_t kMostStates = 3;

const TensorFacts* bad_output(const OpRecord& record) {
  for (const TensorFacts& output : record.outputs) {
    if (output.kinds != 0) return &output;
  }
  return record.outputs.empty() ? nullptr : &record.outputs.front();
}

Link link_of(const OpRecord& record) {
  Link link;
  link.op = name_of(record);
  link.module = record.module;
  link.direction = record.direction;
  const TensorFacts* output = bad_output(record);
  if (output == nullptr) return link;
  link.dtype = output->dtype;
  link.sizes = output->sizes;
  link.largest = output->stats.largest;
  link.values = output->stats.numel;
  link.nonfinite = output->stats.non_finite();
  return link;
}

// The op where it was born comes first.
std::vector<Link> way_of(const Root& root, const Replay& replay) {
  std::vector<Link> links = {link_of(replay.trace.record(root.record))};
  int64_t last = root.record;
  for (int64_t i : root.way) {
    const OpRecord& record = replay.trace.record(i);
    if (record.op != nullptr && record.op->leaves_garbage) continue;  // code that is no op wrote it
    while (replay.trace.record(i).parent >= 0) i = replay.trace.record(i).parent;
    if (i == root.record || i == last) continue;
    last = i;
    links.push_back(link_of(replay.trace.record(i)));
  }
  return links;
}

std::vector<std::string> in_words(const std::vector<Sink>& bad_sinks, const Replay& replay) {
  std::vector<std::string> sinks;
  int64_t gradients = 0, states = 0;
  for (const Sink& sink : bad_sinks) {
    if (sink.sort == Sink::Sort::kLoss)
      sinks.push_back(
          fmt::format("loss {}", std::isnan(replay.loss) ? std::abs(replay.loss) : replay.loss));
    const bool has_name = sink.sort != Sink::Sort::kLoss && sink.sort != Sink::Sort::kGradient;
    if (has_name && states++ < kMostStates) sinks.push_back(sink.name);
    gradients += sink.sort == Sink::Sort::kGradient ? 1 : 0;
  }
  if (states > kMostStates) sinks.push_back(fmt::format("{} more tensors", states - kMostStates));
  if (gradients > 0)
    sinks.push_back(fmt::format("{} of {} parameters' gradients", gradients, replay.grads.size()));
  return sinks;
}

std::vector<std::string> chain_of(const Finding& finding) {
  std::vector<std::string> links;
  for (size_t i = 1; i < finding.way.size(); ++i) {
    const Link& passed = finding.way[i];
    const std::string link =
        passed.module.empty() ? passed.op : passed.op + " (" + passed.module + ")";
    if (links.empty() || links.back() != link) links.push_back(link);
  }
  if (links.size() > kMostLinks) {
    const size_t left_out = links.size() - kMostLinks + 1;
    links.erase(links.begin() + kMostLinks / 2,
                links.begin() + static_cast<std::ptrdiff_t>(kMostLinks / 2 + left_out));
    links.insert(links.begin() + kMostLinks / 2, fmt::format("{} more", left_out));
  }
  links.insert(links.end(), finding.sinks.begin(), finding.sinks.end());
  return links;
}

void describe_way(Finding& finding, const Root& root, const Replay& replay) {
  finding.way = way_of(root, replay);
  finding.way.front().op = finding.op;
  finding.sinks = in_words(replay.bad_sinks, replay);
  finding.chain = chain_of(finding);
}

bool reaches_state_alone(const Replay& replay) {
  return std::all_of(replay.bad_sinks.begin(), replay.bad_sinks.end(),
                     [](const Sink& sink) { return sink.sort == Sink::Sort::kState; });
}

Finding finding_of_external(const Root& root, const Replay& replay, const Patient& patient) {
  Finding finding = finding_at(root.record, replay);
  const ExternalRecord& external = replay.trace.externals[static_cast<size_t>(root.external)];
  finding.cause = Cause::kExternal;
  finding.inner.clear();
  finding.dtype = external.facts.dtype;
  finding.sizes = external.facts.sizes;
  finding.element = external.element;
  finding.bad_elements = external.facts.stats.non_finite();
  finding.value = (external.kinds & kNaN) != 0           ? std::numeric_limits<double>::quiet_NaN()
                  : (external.kinds & kPositiveInf) != 0 ? std::numeric_limits<double>::infinity()
                                                         : -std::numeric_limits<double>::infinity();
  finding.external = external.name.empty() ? "a tensor without a name" : external.name;
  finding.sample = external.is_parameter ? std::nullopt : sample_of(finding, patient);
  return finding;
}

}  // namespace

std::vector<Root> find_roots(const Replay& replay) {
  const Trace& trace = replay.trace;
  const Search search(replay);
  std::vector<Root> roots;
  std::set<int64_t> known;
  for (const auto& [external, reader] : search.externals()) {
    Root root;
    root.external = static_cast<int64_t>(external);
    root.record = trace.externals[external].first_reader;
    if (root.record < 0) root.record = reader;
    root.way = search.way_from(reader);
    roots.push_back(std::move(root));
  }
  for (const int64_t birth : search.births()) {
    const int64_t outer = outermost_birth(trace, birth);
    if (search.is_explained(birth) || !known.insert(outer).second) continue;
    Root root;
    root.record = outer;
    root.inner = innermost(trace, outer);
    root.way = search.way_from(search.has_reached(outer) ? outer : birth);
    add_root(trace, roots, std::move(root));
  }
  std::stable_sort(roots.begin(), roots.end(),
                   [](const Root& a, const Root& b) { return a.record < b.record; });
  for (Root& root : swallowed_roots(trace, known)) roots.push_back(std::move(root));
  return roots;
}

Finding finding_at(int64_t i, const Replay& replay) {
  const OpRecord& record = replay.trace.record(i);
  Finding finding;
  finding.op = name_of(record);
  finding.direction = record.direction;
  finding.module = record.module;
  finding.parameter = record.parameter;
  finding.node = record.node;
  if (record.forward >= 0) finding.forward_op = name_of(replay.trace.record(record.forward));
  if (record.op == nullptr && record.forward >= 0)
    finding.op = "the backward pass of " + finding.forward_op;
  finding.is_recomputed = record.is_recomputed;
  finding.micro_batch = record.micro_batch;
  if (!record.outputs.empty()) {
    finding.dtype = record.outputs.front().dtype;
    finding.sizes = record.outputs.front().sizes;
  }
  return finding;
}

namespace {

// What is known of it is known best where it was born, unless that op has no kernel for fp64.
int64_t best_known(const Root& root, const Trace& trace) {
  if (root.inner < 0) return root.record;
  const bool is_exact_outside_alone = !trace.record(root.inner).birth->exact.has_value() &&
                                      trace.record(root.record).birth->exact.has_value();
  return is_exact_outside_alone ? root.record : root.inner;
}

}  // namespace

Finding finding_of(const Root& root, const Replay& replay, const Patient& patient) {
  if (root.external >= 0) {
    Finding finding = finding_of_external(root, replay, patient);
    describe_way(finding, root, replay);
    return finding;
  }
  const Trace& trace = replay.trace;
  Finding finding = finding_at(root.record, replay);
  for (int64_t i = root.inner; i > root.record; i = trace.record(i).parent)
    finding.inner.insert(finding.inner.begin(), name_of(trace.record(i)));
  const OpRecord& record = trace.record(best_known(root, trace));
  const Birth& birth = *record.birth;
  const TensorFacts* bad =
      birth.output < record.outputs.size() ? &record.outputs[birth.output] : nullptr;
  if (bad != nullptr) {
    finding.dtype = bad->dtype;
    finding.sizes = bad->sizes;
    finding.bad_elements = bad->stats.non_finite();
  }
  const Cause outer_cause = trace.record(root.record).birth->cause;
  const bool knows_better = outer_cause == Cause::kEmptyReduction ||
                            outer_cause == Cause::kMaskedRow || outer_cause == Cause::kMaskedChoice;
  finding.cause = knows_better ? outer_cause : birth.cause;
  finding.element = birth.element;
  finding.value = birth.value;
  finding.exact = birth.exact;
  finding.operands = birth.operands;
  finding.magnitudes = birth.magnitudes;
  finding.exact_magnitudes = birth.exact_magnitudes;
  finding.note = birth.note;
  const bool lacks_eps =
      finding.cause == Cause::kDivisionByZero || finding.cause == Cause::kInvalid;
  if (finding.note.empty() && lacks_eps)
    finding.note = rounded_scalar_before(trace, root.inner < 0 ? root.record : root.inner);
  finding.is_swallowed = (root.is_swallowed || reaches_state_alone(replay)) &&
                         birth.cause != Cause::kUnderflow && birth.cause != Cause::kLostUpdate &&
                         birth.cause != Cause::kCollidingIntegers;
  if (!may_be_of_parameter(finding, patient)) finding.sample = sample_of(finding, patient);
  finding.alike = static_cast<int64_t>(root.alike.size());
  if (!root.is_swallowed) describe_way(finding, root, replay);
  return finding;
}

std::vector<std::string> not_finite_of(const Replay& replay) {
  // A buffer may be a mask, or hold the start of a running minimum.
  const auto may_be = [&](const Sink& sink) {
    return sink.sort == Sink::Sort::kState &&
           std::all_of(sink.sources.begin(), sink.sources.end(), [&](int64_t source) {
             return leaves_what_is_meant(replay.trace.record(source));
           });
  };
  std::vector<Sink> sinks = replay.bad_sinks;
  std::erase_if(sinks, may_be);
  return in_words(sinks, replay);
}

Finding finding_of_error(const Replay& replay) {
  int64_t thrower = -1;
  for (int64_t i = static_cast<int64_t>(replay.trace.records.size()) - 1; i >= 0; --i) {
    if (!replay.trace.record(i).has_thrown) continue;
    thrower = i;
    break;
  }
  Finding finding;
  finding.op = "code between ops";
  if (thrower >= 0) {
    int64_t outer = thrower;
    while (replay.trace.record(outer).parent >= 0 &&
           replay.trace.record(replay.trace.record(outer).parent).has_thrown)
      outer = replay.trace.record(outer).parent;
    finding = finding_at(outer, replay);
    for (int64_t i = thrower; i > outer; i = replay.trace.record(i).parent)
      finding.inner.insert(finding.inner.begin(), name_of(replay.trace.record(i)));
  }
  finding.cause = Cause::kError;
  finding.note = replay.error.substr(0, replay.error.find('\n'));
  return finding;
}

}  // namespace mezzo::numerics
