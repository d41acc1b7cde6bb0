#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// What the elements of a tensor are, counted.
struct TensorStats {
  int64_t numel = 0;
  int64_t nan = 0;
  int64_t positive_inf = 0;
  int64_t negative_inf = 0;
  int64_t zeros = 0;       // of either sign
  int64_t subnormals = 0;  // of the tensor's own dtype, unless another is asked for
  double largest = 0.0;    // |x| of the finite ones; 0 if there are none

  int64_t non_finite() const { return nan + positive_inf + negative_inf; }
  bool operator==(const TensorStats&) const = default;
};

/// Of any floating dtype, layout and device: of complex numbers both parts, of a sparse tensor its
/// values. An integer tensor has numel alone. Dense CPU tensors are read once, on all threads;
/// others through ATen's ops, and read back from the device.
TensorStats tensor_stats(const at::Tensor& tensor);

namespace reference {

/// The same, plainly: the definition.
TensorStats tensor_stats(const at::Tensor& tensor);

}  // namespace reference

namespace cpu {

/// Whether there are loops for it: dense, fp64, fp32, bf16 or fp16, of at least one number.
bool takes_stats(const at::Tensor& tensor);
/// The same by these loops.
TensorStats tensor_stats(const at::Tensor& tensor);

}  // namespace cpu

/// A hash of the elements' bits in the order of their indices, dtype and size: other bits, or the
/// same bits elsewhere, give another hash but for chance (2^-32). The same for any number of
/// threads. A NaN counts by its bits.
uint64_t content_hash(const at::Tensor& tensor);

}  // namespace mezzo::kernels
