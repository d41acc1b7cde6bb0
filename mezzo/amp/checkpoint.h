#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// A part of a model as a function of tensors: all that it takes and gives. What else it reads
/// (parameters) must be the same in the backward pass.
using CheckpointFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

/// torch.utils.checkpoint for C++: function(inputs), of which only the inputs are kept for the
/// backward pass. There it runs once more, with autocast, cast policy, scope and random numbers as
/// they were (on a CPU, and on the device of the first input that is not on one), and is
/// differentiated then: the same gradients, bit for bit (of a parameter that several parts share,
/// but for the order of its sum), for the memory of one part at a time and one more forward pass
/// (Chen et al., arXiv 1604.06174).
///
/// As with use_reentrant=True in Python: one of the inputs must require grad, and the backward pass
/// must be backward() of all (not grad(), nor backward() of some `inputs`), once; else Error is
/// thrown. Under no_grad it is just the call. Every input must be defined.
///
/// preserves_random: false for a function that draws no random numbers, so that the generators need
/// not be saved. A CUDA graph can hold the part then; libtorch throws where it is to save a
/// generator's state while a graph is recorded.
std::vector<at::Tensor> checkpoint(const CheckpointFunction& function,
                                   const std::vector<at::Tensor>& inputs,
                                   bool preserves_random = true);

}  // namespace mezzo
