#pragma once

#include <cstdint>

namespace mezzo::cli {

/// Computes with so many CPU threads from now on; 0: as libtorch has it, one per core. Throws
/// UsageError for more than the machine can be expected to start.
void use_threads(int64_t threads);

}  // namespace mezzo::cli
