#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// Matrix products of CPU tensors, below autograd. libtorch 2.11 computes some kinds badly:
//   fp16  in a scalar loop, 0.2 to 48 GFLOP/s, where the CPU has no fp16 arithmetic. Here the
//         operands are widened to fp32 (exact), multiplied and summed in fp32, and the result is
//         rounded once, as Tensor Cores do it.
//   bf16  in a scalar loop too, where oneDNN has no bf16 for the CPU (no AVX512): 1 GFLOP/s where
//         fp32 reached 129 (2 Zen 3 cores). Here widened as fp16 is.
//   fp32  through MKL, which takes a slow path on AMD: 190 GFLOP/s where oneDNN reaches 440 (2 Zen
//         5 cores). Here, on AMD, in tiles of its own over oneDNN's micro-kernel (tiled.h), small
//         ones through oneDNN's strict fp32: as exact as MKL, never bf16 inside.
//   bf16  where the CPU has arithmetic for it but no tiles (AMX): in tiles of its own too. With a
//         row bias, libtorch writes the bias over the result first and has the product add to it.
//         Here it is added before the one rounding.
// All other dtypes, and shapes that do not fit, go to libtorch's own kernel, which also makes the
// error messages.
//
//   a [M, K], b [K, N] (batched: [B, M, K], [B, K, N]), any strides, one dtype; the result is
//   dense, in that dtype. Max error against the exact product, per element: fp32 (K + 2) u |a| |b|,
//   u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.13); fp16
//   and bf16 add half an ULP of the rounded result.

at::Tensor mm(const at::Tensor& a, const at::Tensor& b);
at::Tensor bmm(const at::Tensor& a, const at::Tensor& b);

/// beta * self + alpha * (a x b); self is broadcast to the result's shape. As in libtorch, beta = 0
/// ignores the values of self, NaN included. What is widened is rounded once.
at::Tensor addmm(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                 const at::Scalar& beta, const at::Scalar& alpha);
at::Tensor baddbmm(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                   const at::Scalar& beta, const at::Scalar& alpha);

/// sum += a x b. sum: [M, N] fp32, contiguous; a, b fp32, fp16 or bf16. In tiles the product is
/// never there by itself, nor rounded; elsewhere it is rounded to its dtype first, if that is not
/// widened. Throws Error for a sum of another shape, type or layout, and off a CPU.
void add_mm(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

/// Whether products of `dtype` widen their operands to fp32 in this process: fp16 always, bf16
/// where the CPU or the settings leave oneDNN no bf16.
bool widens(at::ScalarType dtype);

/// Which kernel large products of a dtype take in this process, and what that means for their
/// speed: {"oneDNN, strict fp32", "AMD CPU: ..."}. dtype: fp32, fp16 or bf16; throws Error for
/// another.
struct ProductRoute {
  std::string kernel;
  std::string reason;
};
ProductRoute product_route(at::ScalarType dtype);

/// The rate of a square product of `size` in `dtype` through mm(), in GFLOP/s: the best of a few,
/// some milliseconds in all. 2 size^3 operations count.
double measure_product_rate(at::ScalarType dtype, int64_t size);

}  // namespace mezzo::kernels
