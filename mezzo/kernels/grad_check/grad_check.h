#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels {

/// Multiplies all gradients by inv_scale, in place, and says of each what it held before: one pass
/// over memory, which only reads where inv_scale is 1.
///   grads            any shapes and strides; fp32, fp16, bf16 or fp64, mixed
///   inv_scale        the product is taken in fp32 (fp64 for fp64) and rounded once to the dtype
///   smallest_normal  where TensorStats::subnormals begin: of the type that the gradients were
///                    computed in, say 2^-14 for fp16
///   returns          one for each gradient; they do not alias each other
/// The products are those of at::_amp_foreach_non_finite_check_and_unscale_, bit for bit (which NaN
/// a 16-bit NaN becomes apart), and non_finite() > 0 for any of them is its found_inf. The same
/// bits for any number of threads and any instruction set. Throws Error for another dtype; nothing
/// is changed then. A GPU's gradients take its kernel where the build has it; these, and those that
/// go to the reference (another device's, with holes in memory, fp64 on a GPU), are waited for.
std::vector<TensorStats> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                            double smallest_normal);

namespace cuda {

/// Whether this gradient is for the GPU's kernel (mezzo/kernels/cuda/flavour.h), which the others
/// here take.
bool takes_check(const at::Tensor& grad);
/// check_and_unscale_(); all on one GPU.
std::vector<TensorStats> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                            double smallest_normal);
/// Without the facts, and nobody waits: at::_amp_foreach_non_finite_check_and_unscale_, which has
/// no kernel for bf16 there. found_inf and inv_scale: one fp32 number each, on that GPU.
void check_and_unscale_on_device_(const std::vector<at::Tensor>& grads, const at::Tensor& found_inf,
                                  const at::Tensor& inv_scale);

/// The facts of gradients that will be gone when somebody asks for them, kept on their GPU.
/// @{
/// Room for those of so many gradients: [gradients, 6] int64.
at::Tensor make_counts(int64_t gradients, c10::Device device);
/// Fills `counts` where `norm`, one fp32 number on the GPU, is not finite. Where it is, no gradient
/// is read and all counts are 0. Nobody waits. Gradients are dense, fp32 or 16 bits, not changed,
/// and in the first rows of `counts`.
void count_if_not_finite(const std::vector<at::Tensor>& grads, const at::Tensor& norm,
                         double smallest_normal, at::Tensor& counts);
/// Of a copy of `counts` on the host: those of the gradient in this row, which has so many
/// elements.
TensorStats facts_of(const at::Tensor& counts, size_t place, int64_t elements);
/// @}

}  // namespace cuda

namespace reference {

/// The same of one gradient, as tensor code.
TensorStats check_and_unscale_(const at::Tensor& grad, float inv_scale, double smallest_normal);

}  // namespace reference
}  // namespace mezzo::kernels
