#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

struct LinearCrossEntropyOptions {
  int64_t ignore_index = -100;   ///< rows with this target count for nothing
  double label_smoothing = 0.0;  ///< s in [0, 1]: the part of the target that all V share
  double z_loss = 0.0;           ///< >= 0: of lse^2, which keeps logits from drifting; PaLM: 1e-4
};

/// The loss of a language model's head, cross entropy of x weight^T, without all logits in memory
/// at once: the mean over the rows i whose target t_i is not ignore_index of
///
///   lse_i - (1 - s) z_i[t_i] - s mean(z_i) + z_loss lse_i^2,   z_i = x_i weight^T,
///
/// lse_i the logarithm of the sum of exp(z_i). Label smoothing is PyTorch's cross_entropy's; the
/// z-loss is from Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, section 5.
///
///   x        [..., C], any strides
///   weight   [V, C], in the dtype of x
///   targets  [...], int64, each in [0, V) or ignore_index
///   returns  0-dim, fp32 (fp64 for fp64); NaN if no row counts, as PyTorch's cross_entropy
///
/// It is the op mezzo::linear_cross_entropy of the dispatcher: under mezzo::Autocast with the mezzo
/// policy x and weight are cast to the region's 16-bit type, and the loss is fp32.
///
/// On a CPU, for fp32, bf16 and fp16, it works through rows in chunks of some 64 MiB of logits, or
/// all at once where the fp32 sum of grad weight, which several chunks need, would take as much.
/// Where a gradient will be wanted (grad mode is on and x or weight requires it) it finds it at
/// once, chunk by chunk, in three products; the backward pass multiplies by the incoming gradient,
/// which it reads on the host. Results do not depend on the number of threads beyond what
/// libtorch's products do. Everything but the products' operands is fp32:
///   bf16  logits and their gradient are rounded once, as by at::linear; so is grad x. grad weight
///         is summed over chunks in fp32. An incoming gradient that is no power of two costs what
///         one chunk alone gave in bf16, and grad x, a second rounding.
///   fp16, and bf16 where its products are widened too (matmul.h, widens())
///         operands are widened and nothing is rounded before the incoming gradient has been
///         multiplied in: what a loss scale protects is not lost.
/// It has no second derivative: backward with create_graph throws Error.
///
/// On a GPU that the build has kernels for (MEZZO_CUDA) it is the same in chunks of some 800 MiB;
/// nothing is read on the host. The logits' gradient, rounded once to the dtype of x, is that of
/// the sum: it does not underflow where the mean's would. Products are summed, and multiplied by
/// the incoming gradient, in fp32 before they are rounded.
///
/// Elsewhere it is at::linear and at::cross_entropy_loss of fp32 logits.
/// Throws Error for shapes, types, devices and options that do not fit. A target that is out of
/// range is named on a CPU; by the kernels for a GPU its loss and gradients are NaN.
at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options = {});

}  // namespace mezzo::kernels
