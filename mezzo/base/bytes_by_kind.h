#pragma once

#include <cstdint>

namespace mezzo {

/// What the tensor storage at a peak belongs to, in bytes. The five add up to the peak.
struct BytesByKind {
  int64_t weights = 0;          ///< parameters
  int64_t gradients = 0;        ///< of the parameters
  int64_t optimizer_state = 0;  ///< moments and the like
  int64_t activations = 0;      ///< made by a forward pass and still there when it ended
  int64_t temporaries = 0;      ///< all else
};

}  // namespace mezzo
