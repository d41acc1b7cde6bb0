#include "mezzo/kernels/fused_linear/linear_grads.h"

#include <vector>

#include <ATen/ops/mm.h>

#include "mezzo/kernels/fused_linear/fused_accumulation.h"
#include "mezzo/kernels/rows.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

namespace mezzo::kernels {

at::Tensor linear_grad_of_input(const at::Tensor& grad, const at::Tensor& weight,
                                at::ScalarType dtype) {
  std::vector<int64_t> sizes = grad.sizes().vec();
  sizes.back() = weight.size(1);
  return at::mm(rows_of(grad), weight.to(grad.scalar_type())).view(sizes).to(dtype);
}

LinearGrads linear_grads(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
                         const at::Tensor& bias) {
  const at::Tensor rows = rows_of(grad);
  LinearGrads grads;
  if (weight.requires_grad()) {
    const at::Tensor inputs = rows_of(input).to(rows.scalar_type());
    if (!accumulate_fused(weight, rows, inputs))
      grads.weight = at::mm(rows.t(), inputs).to(weight.scalar_type());
  }
  if (bias.defined()) grads.bias = sum_of_rows(rows).to(bias.scalar_type());
  return grads;
}

}  // namespace mezzo::kernels
