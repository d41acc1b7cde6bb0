#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::cuda {

/// Where a kernel on this tensor is launched. While it lives, the tensor's GPU is the current one.
class LaunchGuard {
 public:
  explicit LaunchGuard(const at::Tensor& tensor);
  ~LaunchGuard();
  LaunchGuard(const LaunchGuard&) = delete;
  LaunchGuard& operator=(const LaunchGuard&) = delete;

  /// libtorch's current stream there, a cudaStream_t: a kernel runs in its order, and a graph that
  /// is being captured on it takes it in.
  void* stream() const { return stream_; }
  int multiprocessors() const;

 private:
  c10::DeviceIndex device_, before_;
  void* stream_;
};

}  // namespace mezzo::kernels::cuda
