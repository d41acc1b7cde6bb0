#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::tiled {

// Products of whole tensors over the micro-kernel (brgemm.h): what libtorch's product spends on
// copies and on writing results that are read again is spent here once, in the cache.
//
//   a [M, K], b [K, N]: one dtype, fp32, bf16 or fp16; in each, rows or columns are dense
// Sums are fp32, over K in one order for any number of threads. fp16, and bf16 where libtorch has
// no product for it (kernels::widens), is widened to fp32 as it is packed.

/// Empty if these two are multiplied here, otherwise why not: sizes, strides, the CPU, libtorch's
/// settings, or a CPU on which libtorch's own product is as fast.
std::string refusal(const at::Tensor& a, const at::Tensor& b);

/// The same for any product of `dtype` in this process. The first call tries the micro-kernel.
std::string process_refusal(at::ScalarType dtype);

/// a b + bias, rounded once. bias: [N] of any float type, or undefined. refusal(a, b) must be
/// empty.
at::Tensor mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

/// sum += a b, without a tensor for the product. sum: [M, N] fp32, its rows dense. refusal(a, b)
/// must be empty.
void add_mm(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

}  // namespace mezzo::kernels::tiled
