#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// Records of outermost ops that left bad numbers, not meant so or a gradient, of which no other op
/// has computed anything: where these are for good, in a loss, a gradient, a parameter. A test or a
/// look at them (isfinite, item) is no computation. What a GradScaler skips a step for is none.
std::vector<int64_t> bad_ends(const Trace& trace);

/// Whether a GradScaler may yet see these ends and skip the step: they come of overflows of the
/// backward pass alone, and no optimizer has read a gradient.
bool may_be_search_for_scale(const Trace& trace, const std::vector<int64_t>& ends);

/// In words: "what aten::div left (fc)".
std::string name_of_end(const Trace& trace, int64_t end);

}  // namespace mezzo::numerics
