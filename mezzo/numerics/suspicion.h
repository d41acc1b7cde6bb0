#pragma once

#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// Whether an op read numbers that are not finite and not meant so.
bool reads_non_finite(const OpRecord& record);

/// Whether something may have been born in an op that is over: what it left that is not finite is
/// neither what it read nor meant so. Marks as intended what was meant, as a mask's infinities are.
/// has_infinite_scalar: one of its scalar arguments is. last_bad: the record that last left bad
/// numbers, -1 if none: a NaN among the scalars is that one's, read on the host.
bool judge(OpRecord& record, bool has_infinite_scalar, int64_t last_bad);

}  // namespace mezzo::numerics
