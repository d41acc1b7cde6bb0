#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

/// ExponentCounts as the device counts them; to be zero before.
struct DeviceExponentCounts {
  unsigned long long by_exponent[256];
  unsigned long long zeros;
  unsigned long long largest_bits;  // of the largest finite magnitude, as fp32
  double sum_squares;
};

/// x: N numbers at a multiple of 16 bytes.
void launch_exponent_counts(const void* x, int64_t N, DType dtype, DeviceExponentCounts* counts,
                            void* stream);

}  // namespace mezzo::kernels::cuda
