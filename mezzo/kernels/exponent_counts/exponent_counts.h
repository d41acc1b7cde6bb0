#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// How large a tensor's elements are: how many there are of each exponent, as fp32 has them.
struct ExponentCounts {
  /// [e]: elements with the biased exponent e, that is 2^(e - 127) <= |x| < 2^(e - 126); [0]: zeros
  /// and what is subnormal in fp32, [255]: NaN and Inf.
  std::array<int64_t, 256> by_exponent{};
  int64_t zeros = 0;         ///< of either sign
  double largest = 0.0;      ///< |x| of the finite ones
  double sum_squares = 0.0;  ///< of the finite ones, summed in fp64
};

/// Of a dense floating tensor on any device; fp64 is rounded to fp32 first. Tensors of 16 and 32
/// bits are read once or twice, on all threads of a CPU, or once by a GPU's kernel, for which the
/// host then waits; others are counted by ATen's ops.
ExponentCounts exponent_counts(const at::Tensor& tensor);

namespace reference {

/// The same, plainly: the definition.
ExponentCounts exponent_counts(const at::Tensor& tensor);

}  // namespace reference

namespace cpu {

/// The same by a CPU's loops, of what cpu::takes() (mezzo/kernels/simd/with_type.h).
ExponentCounts exponent_counts(const at::Tensor& tensor);

}  // namespace cpu

namespace cuda {

/// The same by a GPU's kernel, of at least one number that cuda::takes()
/// (mezzo/kernels/cuda/tensors.h). sum_squares may differ from call to call by its fp64 roundings.
ExponentCounts exponent_counts(const at::Tensor& tensor);

}  // namespace cuda
}  // namespace mezzo::kernels
