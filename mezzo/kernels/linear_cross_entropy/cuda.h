#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

/// Rows of logits on a GPU, by address. A row's loss and gradient are those of row.h, as if it were
/// the only row: the mean's factor comes later, after the products, so that 16-bit gradients of
/// logits are as large as they can be.
struct LossRows {
  void* logits;            // [rows, V]; become their gradient, if that is wanted
  const int64_t* targets;  // [rows]
  float* losses;           // [rows]; 0 for a row that does not count
  int64_t rows, V, ignore_index;
  float label_smoothing, z_loss;
  bool wants_gradient;
  DType dtype;
};

void launch_loss_rows(const LossRows& rows, void* stream);

}  // namespace mezzo::kernels::cuda
