#pragma once

#include <vector>

#include "mezzo/kernels/grad_check/grad_check.h"

namespace mezzo::kernels::cpu {

/// check_and_unscale_() of gradients on the CPU that are dense in memory.
std::vector<TensorStats> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                            double smallest_normal);

}  // namespace mezzo::kernels::cpu
