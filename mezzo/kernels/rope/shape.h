#pragma once

#include <cstdint>

namespace mezzo::kernels {

/// Of x [B, T, H, D], whose heads are D numbers side by side, and where they lie: strides in
/// numbers.
struct RopeShape {
  int64_t B, T, H, D;
  int64_t batch_stride, token_stride, head_stride;
};

}  // namespace mezzo::kernels
