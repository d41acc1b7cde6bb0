#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

// residual_norm.h on a GPU, by address. Everything is contiguous and lies at a multiple of 16
// bytes; C has a row_layout().

struct NormRows {
  const void* x;       // in `stream_dtype`
  const void* branch;  // in branch_dtype, `out` or fp32; null: the sum is x, and is not written
  const float* weight;
  const float* bias;  // null: zero
  void* sum;          // in stream_dtype
  void* normed;       // in `out`
  float* mean;        // null: RMSNorm, which has none
  float* rstd;
  int64_t rows, C;
  float eps;
  DType stream_dtype, branch_dtype, out;
};

void launch_norm_rows(const NormRows& rows, void* stream);

/// normed from sum, mean and rstd.
void launch_norm_again(const NormRows& rows, void* stream);

struct NormGradRows {
  const void* grad_normed;  // in `out`
  const void* grad_sum;     // in stream_dtype; null: zero
  const void* sum;
  const float* mean;  // null: RMSNorm
  const float *rstd, *weight;
  const float* bias;  // null: zero
  void* grad_x;
  void *grad_branch, *normed;  // in `out`; null: not wanted
  float* partials;  // [2, blocks, C]: each block's share of grad weight, then of grad bias
  int64_t rows, C;
  int blocks;
  DType stream_dtype, out;
};

void launch_norm_grad_rows(const NormGradRows& rows, void* stream);

/// How many of these blocks a multiprocessor runs at once.
int resident_norm_grad_blocks(int64_t C, DType stream_dtype, DType out);

}  // namespace mezzo::kernels::cuda
