#pragma once

#include <cstdint>
#include <vector>

#include "mezzo/numerics/replay.h"

namespace mezzo::numerics {

/// Where bad numbers came from.
struct Root {
  int64_t record = -1;         // the outermost op whose arguments do not explain its result
  int64_t inner = -1;          // the innermost one within
  int64_t external = -1;       // or else: the trace's external; record is its first reader
  bool is_swallowed = false;   // its bad numbers reach no sink
  std::vector<int64_t> way;    // records that passed them on, to the sink
  std::vector<int64_t> alike;  // further roots of the same op, cause and direction
};

/// All roots of the replay, those that reach a sink first, in the order in which the step came by.
std::vector<Root> find_roots(const Replay& replay);

/// The same for people.
Finding finding_of(const Root& root, const Replay& replay, const Patient& patient);

/// What the step left that is not finite and not meant so, in words: "loss nan".
std::vector<std::string> not_finite_of(const Replay& replay);

/// What the step threw: names the innermost op that did not return.
Finding finding_of_error(const Replay& replay);

/// A finding of that record without a birth: its place alone.
Finding finding_at(int64_t record, const Replay& replay);

}  // namespace mezzo::numerics
