#pragma once

#include "mezzo/kernels/cuda/dtype.h"
#include "mezzo/kernels/rope/shape.h"

namespace mezzo::kernels::cuda {

// rope.h on a GPU, by address.

struct Rope {
  const void* x;       // as `shape` says
  const float* table;  // at a multiple of 16 bytes
  void* y;             // contiguous, at a multiple of 16 bytes
  RopeShape shape;
  float direction;  // 1, or -1 to turn back
  bool is_interleaved;
  DType dtype;  // of x and y
};

void launch_rope(const Rope& rope, void* stream);

}  // namespace mezzo::kernels::cuda
