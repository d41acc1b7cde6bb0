#pragma once

#include <optional>

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::kernels {

struct GradientsWanted {
  bool x = false;
  bool weight = false;
};

/// The loss, 0-dim fp32, and its gradients, undefined where not wanted. These are as the products
/// leave them, to be multiplied by the incoming gradient and rounded to the dtype of x: bf16 for
/// bf16, or fp32 where chunks were summed; fp32 for fp32 and fp16, and on a GPU.
struct LossAndGradients {
  at::Tensor loss;
  at::Tensor grad_x;       // [N, C]
  at::Tensor grad_weight;  // [V, C]
  at::Tensor per_row;      // 0-dim fp32, on a GPU: what both are still to be multiplied by
};

/// The chunked linear_cross_entropy where x is, on a CPU or a GPU.
LossAndGradients loss_and_gradients(const at::Tensor& x, const at::Tensor& weight,
                                    const at::Tensor& targets,
                                    const LinearCrossEntropyOptions& options,
                                    GradientsWanted wanted);

namespace cpu {

/// The same. x, weight and targets are what linear_cross_entropy takes, on a CPU, in fp32,
/// bf16 or fp16; the logits of a chunk take at most chunk_bytes, or one row. Without chunk_bytes
/// all are one chunk where that takes no more memory than several, which need a sum of grad weight.
LossAndGradients linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                      const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options,
                                      GradientsWanted wanted,
                                      std::optional<int64_t> chunk_bytes = std::nullopt);

}  // namespace cpu

namespace cuda {

/// The same on a GPU (mezzo/kernels/cuda/flavour.h). Nobody waits for it: how many rows count is
/// not known on the host.
LossAndGradients linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                      const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options,
                                      GradientsWanted wanted);

}  // namespace cuda
}  // namespace mezzo::kernels
