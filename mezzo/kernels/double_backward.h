#pragma once

#include <string_view>

#include <ATen/core/grad_mode.h>

#include "mezzo/base/check.h"

namespace mezzo::kernels {

/// For a node of autograd whose backward pass is none of ops that have a gradient: throws Error,
/// naming `op`, if a gradient of its gradient is being asked for.
inline void check_no_double_backward(std::string_view op) {
  MEZZO_CHECK(
      !at::GradMode::is_enabled(), op,
      "its gradient cannot be differentiated again. Hint: that of libtorch's ops, one by one, "
      "can");
}

}  // namespace mezzo::kernels
