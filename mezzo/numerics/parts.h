#pragma once

#include <vector>

#include "mezzo/numerics/magnitude_log.h"
#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// What the parts of the model made, in the order of the step: outermost ops of one part that
/// follow each other are one stretch, and each dtype in it an entry. log: lived while the step was
/// recorded.
std::vector<PartMagnitudes> parts_of(const Trace& trace, const MagnitudeLog& log);

}  // namespace mezzo::numerics
