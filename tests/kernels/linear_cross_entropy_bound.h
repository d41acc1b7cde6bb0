#pragma once

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

namespace mezzo::kernels {

struct LossCase {
  at::Tensor x, weight, targets;  // [N, C], [V, C], [N]
  LinearCrossEntropyOptions options;
  at::Device device = at::kCPU;  // that the op is to run on; the tensors are on the CPU
};

/// Standard normal x and weight of a dtype, targets that are drawn evenly.
LossCase random_case(int64_t N, int64_t V, int64_t C, at::ScalarType dtype,
                     at::Device device = at::kCPU);

/// The loss and its gradients, or how far they may lie from the exact ones.
struct LossValues {
  at::Tensor loss, grad_x, grad_weight;  // fp64
};

/// The loss's gradients multiplied by `factor`, in fp64, by autograd through the reference.
LossValues exact_values(const LossCase& c, double factor = 1.0);

/// What the contract in linear_cross_entropy.h lets them be off by, rounding for rounding.
LossValues error_bounds(const LossCase& c, const LossValues& exact, double factor = 1.0);

}  // namespace mezzo::kernels
