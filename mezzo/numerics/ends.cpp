#include "mezzo/numerics/ends.h"

#include <algorithm>
#include <deque>
#include <set>

#include <fmt/format.h>

namespace mezzo::numerics {
namespace {

// Not the composites that copy where they cannot make a view, as `to` does: these compute nothing.
int64_t outermost(const Trace& trace, int64_t i) {
  for (int64_t parent = trace.record(i).parent; parent >= 0; parent = trace.record(i).parent) {
    if (trace.record(parent).op->is_view) break;
    i = parent;
  }
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

bool is_birth(const OpRecord& record) { return record.birth.has_value() && !record.reads_bad; }

bool is_overflow_of_backward(const OpRecord& record) {
  const Cause cause = record.birth->cause;
  return record.direction == Direction::kBackward &&
         (cause == Cause::kOverflow || cause == Cause::kInnerOverflow);
}

// The births that the end came from, and what is between.
std::set<int64_t> origins_of(const Trace& trace, int64_t end) {
  std::set<int64_t> origins = {end};
  for (std::deque<int64_t> open = {end}; !open.empty(); open.pop_front()) {
    if (is_birth(trace.record(open.front()))) continue;
    for (const int64_t source : trace.record(open.front()).sources) {
      if (origins.insert(source).second) open.push_back(source);
    }
  }
  return origins;
}

bool is_of_overflows_of_backward(const Trace& trace, const std::set<int64_t>& origins) {
  return std::all_of(origins.begin(), origins.end(), [&trace](int64_t i) {
    const OpRecord& record = trace.record(i);
    return is_birth(record) ? is_overflow_of_backward(record) : !record.sources.empty();
  });
}

// A GradScaler looks for the largest scale that does not overflow, and skips the step of one that
// does.
bool is_search_for_scale(const Trace& trace, int64_t end) {
  const std::set<int64_t> origins = origins_of(trace, end);
  return is_of_overflows_of_backward(trace, origins) &&
         std::any_of(origins.begin(), origins.end(),
                     [&trace](int64_t i) { return unscales(trace.record(i)); });
}

}  // namespace

std::vector<int64_t> bad_ends(const Trace& trace) {
  std::vector<bool> is_read(trace.records.size());
  const auto N = static_cast<int64_t>(trace.records.size());
  for (int64_t i = 0; i < N; ++i) {
    const int64_t reader = outermost(trace, i);
    if (trace.record(reader).outputs.empty()) continue;
    for (const int64_t source : trace.record(i).sources) {
      const int64_t maker = outermost(trace, source);
      if (maker != reader) is_read[static_cast<size_t>(maker)] = true;
    }
  }
  std::vector<int64_t> ends;
  for (int64_t i = 0; i < N; ++i) {
    const bool is_end = outermost(trace, i) == i && !is_read[static_cast<size_t>(i)];
    if (is_end && left_bad_numbers(trace.record(i)) && !is_search_for_scale(trace, i))
      ends.push_back(i);
  }
  return ends;
}

bool may_be_search_for_scale(const Trace& trace, const std::vector<int64_t>& ends) {
  const auto is_optimizers = [](const OpRecord& record) {
    return record.is_update && record.parent < 0 && !unscales(record);
  };
  return std::none_of(trace.records.begin(), trace.records.end(), is_optimizers) &&
         std::all_of(ends.begin(), ends.end(), [&trace](int64_t end) {
           return is_of_overflows_of_backward(trace, origins_of(trace, end));
         });
}

std::string name_of_end(const Trace& trace, int64_t end) {
  const OpRecord& record = trace.record(end);
  const std::string op = record.op == nullptr ? "a kernel that is no op" : record.op->name;
  const std::string& place = record.module.empty() ? record.parameter : record.module;
  return place.empty() ? "what " + op + " left" : fmt::format("what {} left ({})", op, place);
}

}  // namespace mezzo::numerics
