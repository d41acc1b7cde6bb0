#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/fp8/recipe.h"

namespace mezzo::kernels {

/// Empty if fp8_linear() takes these, otherwise the reason why not: then at::linear in bf16 serves.
/// A GPU's FP8 products need compute capability 8.9 and sizes in multiples of 16: the rows of x, C
/// and N. A CPU emulates them, under the same rules.
std::string fp8_refusal(const at::Tensor& x, const at::Tensor& weight);
/// The same of a device, whatever the shapes.
std::string fp8_refusal(at::Device device);

/// FP8 products take the rows of x, C and N in multiples of it.
constexpr int64_t kFp8Multiple = 16;

/// What x is made of, where the backward pass shall make it again, bit for bit, instead of keeping
/// its FP8 copy.
struct Fp8Source {
  at::Tensor (*again)(const std::vector<at::Tensor>& from) = nullptr;  ///< null: the copy is kept
  std::vector<at::Tensor> from = {};
};

/// y = x W^T + b, its three products in FP8 with fp32 sums, as one node of autograd.
///
///   x        [..., C] fp32, bf16 or fp16
///   weight   [N, C] likewise; bias [N] of any float type, or none
///   recipe   this layer's: its casters remember earlier steps. Two layers do not share one. A pass
///            without gradients is not remembered: neither an evaluation, nor the first pass of a
///            part that is checkpointed, which comes again for its gradients, with the same scales.
///   source   what x can be made of again
///   returns  [..., N] bf16
/// Kept for the backward pass are the FP8 copies of x and weight, a byte a number, and not x. Each
/// gradient has the dtype of what it is of and is rounded once from fp32, in an autocast region
/// too; the bias's is the sum of the gradient's rows before their cast. No double backward. Throws
/// Error where fp8_refusal(x, weight) is not empty.
///
/// Error, with a relative error u of a cast: 2^-4 for x and weight, 2^-3 for gradients, a product
/// of two is off by (u_a + u_b + u_a u_b) sum |a| |b| at most, beside what is small against the
/// tensor's largest number (cast.h) and the sums' own roundings. The GPU's fast accumulation, of
/// fewer bits than fp32, is for the forward product alone.
at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias,
                      const std::shared_ptr<Fp8Recipe>& recipe, const Fp8Source& source = {});

}  // namespace mezzo::kernels
