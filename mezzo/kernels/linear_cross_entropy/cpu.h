#pragma once

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::kernels {

struct GradientsWanted {
  bool x = false;
  bool weight = false;
};

/// The loss, 0-dim fp32, and its gradients, undefined where not wanted. These are as the products
/// leave them, to be multiplied by the incoming gradient and rounded to the dtype of x: bf16 for
/// bf16, or fp32 where chunks were summed; fp32 for fp32 and fp16.
struct LossAndGradients {
  at::Tensor loss;
  at::Tensor grad_x;       // [N, C]
  at::Tensor grad_weight;  // [V, C]
};

// Of a chunk's logits: less costs time, as grad weight is gone through once a chunk; more costs
// memory.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

/// The chunked linear_cross_entropy. x, weight and targets are what it takes, on a CPU, in fp32,
/// bf16 or fp16; the logits of a chunk take at most chunk_bytes, or one row.
LossAndGradients linear_cross_entropy_cpu(const at::Tensor& x, const at::Tensor& weight,
                                          const at::Tensor& targets,
                                          const LinearCrossEntropyOptions& options,
                                          GradientsWanted wanted,
                                          int64_t chunk_bytes = kChunkBytes);

}  // namespace mezzo::kernels
