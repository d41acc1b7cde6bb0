#pragma once

#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace mezzo::kernels {

/// Normal numbers, one tensor after the other. Each test file draws from its own, so that what it
/// computes with does not depend on other files.
class Random {
 public:
  explicit Random(uint64_t seed) : generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  at::Tensor operator()(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) const {
    return at::randn(sizes, generator_).to(dtype);
  }
  /// With a gradient to come.
  at::Tensor leaf(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device = at::kCPU) const {
    return (*this)(sizes).to(device, dtype).requires_grad_();
  }

 private:
  at::Generator generator_;
};

}  // namespace mezzo::kernels
