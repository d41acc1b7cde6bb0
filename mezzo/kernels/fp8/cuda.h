#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

enum class Fp8Format { kE4M3, kE5M2 };

/// cast.h on a GPU, by address; null for what is not wanted.
struct Fp8Rows {
  const void* x;  // [rows, C], at a multiple of 16 bytes
  const float* scale;
  void* values;      // [rows, C], as aligned
  void* transposed;  // [C, rows], as aligned, or null
  float* amax;       // or null
  int64_t rows, C;
  DType dtype;
  Fp8Format format;
};

void launch_fp8_cast(const Fp8Rows& rows, void* stream);

/// fp8_scale() and next_fp8_scale() of scaling.h. amaxes [H], H at most 1024, or null: then the
/// scale is amax's own, and amax stays.
struct Fp8ScaleStep {
  float* amax;
  float* amaxes;
  float* scale;
  int64_t H;
  float largest;
};

void launch_fp8_scale(const Fp8ScaleStep& step, void* stream);

}  // namespace mezzo::kernels::cuda
