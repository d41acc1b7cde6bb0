#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo {

/// The tensor on `device`; itself, if it is there. Does not wait for a copy to a GPU. It waits for
/// one to a CPU, where the next to read would come before the numbers.
inline at::Tensor to_device(const at::Tensor& tensor, at::Device device) {
  return tensor.to(device, /*non_blocking=*/!device.is_cpu());
}

}  // namespace mezzo
