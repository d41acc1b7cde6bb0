#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/number.h"

namespace mezzo::kernels::cuda {

// residual_norm.h on a GPU, by address. Everything is contiguous and lies at a multiple of 16
// bytes; C has a row_layout().

struct NormRows {
  const void* x;       // in `stream_number`
  const void* branch;  // in branch_number, `out` or fp32; null: the sum is x, and is not written
  const float* weight;
  const float* bias;  // null: zero
  void* sum;          // in stream_number
  void* normed;       // in `out`
  float* mean;        // null: RMSNorm, which has none
  float* rstd;
  int64_t rows, C;
  float eps;
  Number stream_number, branch_number, out;
};

void launch_norm_rows(const NormRows& rows, void* stream);

/// normed from sum, mean and rstd.
void launch_norm_again(const NormRows& rows, void* stream);

struct NormGradRows {
  const void* grad_normed;  // in `out`
  const void* grad_sum;     // in stream_number; null: zero
  const void* sum;
  const float* mean;  // null: RMSNorm
  const float *rstd, *weight;
  const float* bias;  // null: zero
  void* grad_x;
  void *grad_branch, *normed;  // in `out`; null: not wanted
  float* partials;  // [2, blocks, C]: each block's share of grad weight, then of grad bias
  int64_t rows, C;
  int blocks;
  Number stream_number, out;
};

void launch_norm_grad_rows(const NormGradRows& rows, void* stream);

/// How many of these blocks a multiprocessor runs at once.
int resident_norm_grad_blocks(int64_t C, Number stream_number, Number out);

}  // namespace mezzo::kernels::cuda
