#pragma once

#include <cstdint>

namespace mezzo {

/// What CpuAllocator's memory for large blocks amounts to, in bytes.
struct CpuMemory {
  int64_t live = 0;         ///< in use, each block rounded up to whole pages of 4 KiB
  int64_t cached = 0;       ///< free, and kept for the next tensor
  int64_t mapped = 0;       ///< live + cached, in pages of 2 MiB: no more than this is resident
  int64_t peak_live = 0;    ///< since the start or the last release_cached()
  int64_t peak_mapped = 0;  ///< likewise
};

}  // namespace mezzo
