#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// A matrix in FP8: x = scale * values, up to the rounding of the format.
struct Fp8 {
  at::Tensor values;      ///< [rows, C] Float8_e4m3fn or Float8_e5m2
  at::Tensor transposed;  ///< [C, rows], the same numbers; undefined where not asked for
  at::Tensor scale;       ///< [] fp32, a power of two, on the device of values
};

/// What a cast leaves beside the values.
struct Fp8Cast {
  at::ScalarType dtype = at::kFloat8_e4m3fn;  ///< or Float8_e5m2
  bool transposes = false;                    ///< FP8 products want both operands along their sum
  at::Tensor amax = {};  ///< [] fp32 >= 0, raised to max |x| in place, NaN by a NaN; or undefined
};

/// Rounds x / scale to FP8, to nearest with ties to even, in one pass over memory.
///   x        [rows, C] fp32, bf16 or fp16, any strides
///   scale    [] fp32, a power of two (see scaling.h): the division is exact
/// Error, relative to x: 2^-4 in e4m3 and 2^-3 in e5m2; where the quotient is small, scale times
/// 2^-10 and 2^-17. A finite quotient beyond the largest number becomes that number. NaN stays NaN;
/// an Inf stays one in e5m2, and becomes NaN in e4m3, which has no Inf.
/// Throws Error for other shapes and dtypes. The op mezzo::fp8_cast of the dispatcher.
Fp8 fp8_cast(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast);

namespace reference {

/// The same as plain tensor code.
Fp8 fp8_cast(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast);

}  // namespace reference

namespace cuda {

/// The same by a GPU's kernel (mezzo/kernels/cuda/flavour.h).
Fp8 fp8_cast(const at::Tensor& x, const at::Tensor& scale, const Fp8Cast& cast);

}  // namespace cuda
}  // namespace mezzo::kernels
