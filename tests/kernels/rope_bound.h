#pragma once

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/rope/rope.h"

namespace mezzo::kernels {

/// How far x, turned in `dtype`, may lie from `want`, what fp64 makes of the same table: two fp32
/// roundings of products and sums of at most |a| + |b|, and one to the dtype. In fp64 want has as
/// many roundings itself.
inline at::Tensor rope_bound(at::ScalarType dtype, RopePairs pairs, const at::Tensor& x,
                             const at::Tensor& want) {
  const bool is_halves = pairs == RopePairs::kHalves;
  const at::Tensor numbers =
      x.abs().unflatten(-1, is_halves ? at::IntArrayRef{2, -1} : at::IntArrayRef{-1, 2});
  const at::Tensor both = numbers.sum(is_halves ? -2 : -1, /*keepdim=*/true);
  const at::Tensor terms = both.expand_as(numbers).flatten(-2);
  const FloatFormat& format = float_format(dtype);
  const double inside =
      dtype == at::kDouble ? 2 * format.epsilon : float_format(at::kFloat).epsilon;
  return terms * inside + (want.abs() + terms * inside) * (format.epsilon / 2) +
         format.smallest_subnormal;
}

}  // namespace mezzo::kernels
