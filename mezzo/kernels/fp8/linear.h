#pragma once

#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/fp8/recipe.h"

namespace mezzo::kernels {

/// Empty if fp8_linear() takes these, otherwise the reason why not: then at::linear in bf16 serves.
/// A GPU's FP8 products need compute capability 8.9 and sizes in multiples of 16: the rows of x, C
/// and N. A CPU emulates them, under the same rules.
std::string fp8_refusal(const at::Tensor& x, const at::Tensor& weight);

/// y = x W^T + b, its three products in FP8 with fp32 sums, as one node of autograd.
///
///   x        [..., C] fp32, bf16 or fp16
///   weight   [N, C] likewise; bias [N] of any float type, or none
///   recipe   this layer's: its casters remember earlier steps. Two layers do not share one.
///   returns  [..., N] bf16
/// Kept for the backward pass are the FP8 copies of x and weight, a byte a number, and not x. Each
/// gradient has the dtype of what it is of and is rounded once from fp32; the bias's is the sum of
/// the gradient's rows before their cast. No double backward. Throws Error where fp8_refusal(x,
/// weight) is not empty.
///
/// Error, with a relative error u of a cast: 2^-4 for x and weight, 2^-3 for gradients, a product
/// of two is off by (u_a + u_b + u_a u_b) sum |a| |b| at most, beside what is small against the
/// tensor's largest number (cast.h) and the sums' own roundings. The GPU's fast accumulation, of
/// fewer bits than fp32, is for the forward product alone.
at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias,
                      const std::shared_ptr<Fp8Recipe>& recipe);

}  // namespace mezzo::kernels
