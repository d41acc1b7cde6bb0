#pragma once

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/cuda/number.h"

namespace mezzo::kernels::cuda {

/// Where a kernel on this tensor is launched. While it lives, the tensor's GPU is the current one.
class Launch {
 public:
  explicit Launch(const at::Tensor& tensor);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  /// libtorch's current stream there, a cudaStream_t: a kernel runs in its order, and a graph that
  /// is being captured on it takes it in.
  void* stream() const { return stream_; }
  int multiprocessors() const;

 private:
  c10::DeviceIndex device_, before_;
  void* stream_;
};

/// Whether kernels take this dtype: fp32, bf16 or fp16.
bool is_number(at::ScalarType dtype);
/// Whether they take this tensor: of such a dtype, on a GPU.
bool takes(const at::Tensor& x);
/// For one that they take.
Number number_of(at::ScalarType dtype);

/// x, contiguous and at a multiple of 16 bytes, as kernels take it: itself, or a copy.
at::Tensor aligned(const at::Tensor& x);

}  // namespace mezzo::kernels::cuda
