#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::cuda {

/// A tensor of x's shape and dtype on the host, to which a GPU can copy while the host goes on.
/// From libtorch's store of such memory, in blocks of powers of two: for a moment.
at::Tensor pinned_like(const at::Tensor& x);
/// The same, no larger than it must be and made anew each time, which takes long: to be kept.
/// Throws Error where the system has no more.
at::Tensor pinned_to_keep(const at::Tensor& x);

}  // namespace mezzo::kernels::cuda
