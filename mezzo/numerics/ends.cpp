#include "mezzo/numerics/ends.h"

#include <algorithm>
#include <deque>
#include <set>

#include <fmt/format.h>

namespace mezzo::numerics {
namespace {

const OpRecord& at(const Trace& trace, int64_t i) { return trace.records[static_cast<size_t>(i)]; }

int64_t outermost(const Trace& trace, int64_t i) {
  while (at(trace, i).parent >= 0) i = at(trace, i).parent;
  return i;
}

bool left_bad_numbers(const OpRecord& record) {
  if (record.op != nullptr && record.op->leaves_garbage) return false;  // nobody has read it
  // No mask is a gradient.
  const bool is_gradient = record.direction == Direction::kBackward;
  return std::any_of(record.outputs.begin(), record.outputs.end(), [&](const TensorFacts& output) {
    return (output.kinds & ~(is_gradient ? 0 : output.intended)) != 0;
  });
}

bool unscales(const OpRecord& record) {
  return record.op != nullptr &&
         base_name(record.op->name) == "_amp_foreach_non_finite_check_and_unscale";
}

bool is_overflow_of_backward(const OpRecord& record) {
  const Cause cause = record.birth->cause;
  return record.direction == Direction::kBackward &&
         (cause == Cause::kOverflow || cause == Cause::kInnerOverflow);
}

// A GradScaler looks for the largest scale that does not overflow, and skips the step of one that
// does: all that the end came from are overflows of the backward pass, and the scaler has seen it.
bool is_search_for_scale(const Trace& trace, int64_t end) {
  bool is_seen = false;
  std::set<int64_t> known = {end};
  for (std::deque<int64_t> open = {end}; !open.empty(); open.pop_front()) {
    const OpRecord& record = at(trace, open.front());
    is_seen |= unscales(record);
    const bool is_birth = record.birth.has_value() && !record.reads_bad;
    if (is_birth ? !is_overflow_of_backward(record) : record.sources.empty()) return false;
    for (const int64_t source : record.sources) {
      if (!is_birth && known.insert(source).second) open.push_back(source);
    }
  }
  return is_seen;
}

}  // namespace

std::vector<int64_t> bad_ends(const Trace& trace) {
  std::vector<bool> is_read(trace.records.size());
  const auto N = static_cast<int64_t>(trace.records.size());
  for (int64_t i = 0; i < N; ++i) {
    const int64_t reader = outermost(trace, i);
    if (at(trace, reader).outputs.empty()) continue;
    for (const int64_t source : at(trace, i).sources) {
      const int64_t maker = outermost(trace, source);
      if (maker != reader) is_read[static_cast<size_t>(maker)] = true;
    }
  }
  std::vector<int64_t> ends;
  for (int64_t i = 0; i < N; ++i) {
    const bool is_end = at(trace, i).parent < 0 && !is_read[static_cast<size_t>(i)];
    if (is_end && left_bad_numbers(at(trace, i)) && !is_search_for_scale(trace, i))
      ends.push_back(i);
  }
  return ends;
}

std::string name_of_end(const Trace& trace, int64_t end) {
  const OpRecord& record = at(trace, end);
  const std::string op = record.op == nullptr ? "a kernel that is no op" : record.op->name;
  const std::string& place = record.module.empty() ? record.parameter : record.module;
  return place.empty() ? "what " + op + " left" : fmt::format("what {} left ({})", op, place);
}

}  // namespace mezzo::numerics
