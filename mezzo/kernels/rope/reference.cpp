#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include "mezzo/kernels/rope/rotate.h"

namespace mezzo::kernels::reference {

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse) {
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  // [T, 1, D/2], for all heads alike.
  const auto angles = table.slice(0, 0, x.size(1)).to(type).unsqueeze(1).chunk(2, -1);
  const at::Tensor cos = angles[0], sin = is_inverse ? -angles[1] : angles[1];
  const bool is_halves = pairs == RopePairs::kHalves;
  const int64_t pair = is_halves ? -2 : -1;  // the dimension of a pair's two numbers
  const auto two = x.to(type)
                       .unflatten(-1, is_halves ? at::IntArrayRef{2, -1} : at::IntArrayRef{-1, 2})
                       .unbind(pair);
  const at::Tensor &a = two[0], &b = two[1];
  return at::stack({a * cos - b * sin, a * sin + b * cos}, pair).flatten(-2).to(x.scalar_type());
}

}  // namespace mezzo::kernels::reference
