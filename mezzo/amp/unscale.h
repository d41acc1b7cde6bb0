#pragma once

#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

#include "mezzo/amp/gradient_facts.h"

namespace mezzo {

struct Unscaled {
  at::Tensor found_inf;  ///< 0-dim fp32, 1 or 0; undefined if no parameter has a gradient
  std::vector<UnscaledGradient> gradients;  ///< of all parameters that have one, group by group
};

/// Multiplies all gradients of the optimizer by inv_scale (0-dim fp32), in place, and says whether
/// any of them is NaN or Inf before that: found_inf, on the device of inv_scale, is the largest
/// over the gradients' devices. Gradients may be of any float type and lie on any devices; of a
/// sparse one the values are taken, and an fp16 sparse one is replaced by its sum over duplicate
/// indices. That of a parameter listed twice is unscaled once: libtorch's Module::parameters() has
/// those of a shared module twice, unlike Python's. Those on a CPU are looked into by the same pass
/// (TensorStats). Waits for no device, unless of gradients and inv_scale some are on a CPU and
/// others are not. Throws Error for an fp16 gradient unless allow_fp16; no gradient is changed
/// then.
Unscaled unscale_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                           bool allow_fp16);

/// Multiplies by inv_scale and sets found_inf to 1 if an element is NaN or Inf before; found_inf is
/// left as it is otherwise. Tensors of one dtype, on the device of found_inf and inv_scale, both
/// 0-dim fp32. libtorch's kernel where it has one; CUDA has none for bf16 (2.11).
void check_and_unscale_(const std::vector<at::Tensor>& grads, at::Tensor& found_inf,
                        const at::Tensor& inv_scale);

/// The same out of plain ops: the largest |element| in fp32, which keeps NaN and Inf, then a
/// product in fp32 rounded to the gradient's dtype. For fp32 and 16-bit gradients.
void check_and_unscale_plain_(const std::vector<at::Tensor>& grads, at::Tensor& found_inf,
                              const at::Tensor& inv_scale);

}  // namespace mezzo
