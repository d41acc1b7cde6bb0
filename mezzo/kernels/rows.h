#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

namespace mezzo::kernels {

/// x [..., C] as [rows, C]. The rows are counted: reshape({-1, C}) cannot infer how many there are
/// of none of an element.
inline at::Tensor rows_of(const at::Tensor& x) {
  const at::IntArrayRef sizes = x.sizes();
  return x.reshape({c10::multiply_integers(sizes.begin(), sizes.end() - 1), sizes.back()});
}

}  // namespace mezzo::kernels
