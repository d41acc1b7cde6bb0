#pragma once

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/rope/rope.h"
#include "mezzo/kernels/rope/shape.h"

namespace mezzo::kernels {

// rope.h below autograd, with arguments that fit.

/// is_inverse: turned back, by the negative angles.
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse);

/// x itself, or a copy, in which the numbers of a head lie side by side.
inline at::Tensor with_dense_heads(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

inline RopeShape rope_shape(const at::Tensor& x) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), x.stride(0), x.stride(1), x.stride(2)};
}

namespace reference {

/// Plain tensor code: the definition.
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse);

}  // namespace reference

/// The same by a CPU's loops, of what cpu::takes() (mezzo/kernels/simd/with_type.h).
namespace cpu {

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse);

}  // namespace cpu

/// The same by a GPU's kernel, of what cuda::takes() (mezzo/kernels/cuda/tensors.h).
namespace cuda {

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse);

}  // namespace cuda

/// The op's kernel, for every device: its node of autograd.
at::Tensor rope_autograd(const at::Tensor& x, const at::Tensor& table, bool is_interleaved);

}  // namespace mezzo::kernels
