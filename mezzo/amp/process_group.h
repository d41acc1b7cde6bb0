#pragma once

#include <functional>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

namespace c10d {
class ProcessGroup;
}

namespace mezzo {

/// For GradScalerOptions::reduce_found_inf: leaves in a tensor the largest of all ranks of the
/// group, so that all of them skip a step if one overflows. Every rank must call as often, in the
/// same order. Waits as the group's backend does: NCCL's orders streams and does not hold up the
/// host. Throws Error without a group.
std::function<void(at::Tensor&)> max_over(const c10::intrusive_ptr<c10d::ProcessGroup>& group);

}  // namespace mezzo
