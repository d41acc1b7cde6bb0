#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

namespace mezzo {

/// `tensor` in `dtype`, if it is eligible for autocast on `device` (floating-point, there, not
/// fp64); else itself. Within an Autocast region with its cache on, the cast of an fp32 leaf that
/// requires grad to the region's dtype, that is of a parameter, is made once and kept.
///
/// Unlike at::autocast::cached_cast, a kept cast is keyed by dtype too, is made anew after the
/// parameter was written to, and belongs to the thread: another thread's region does not empty it.
at::Tensor cast_for_autocast(const at::Tensor& tensor, at::ScalarType dtype,
                             c10::DeviceType device);

/// Drops this thread's kept casts. Always safe: autograd keeps alive what it needs.
void clear_cast_cache();

}  // namespace mezzo
