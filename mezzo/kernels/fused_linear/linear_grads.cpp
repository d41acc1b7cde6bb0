#include "mezzo/kernels/fused_linear/linear_grads.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/fused_linear/fused_accumulation.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

namespace mezzo::kernels {

LinearGrads linear_backward(const at::Tensor& grad, const at::Tensor& input,
                            const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor rows = grad.reshape({-1, grad.size(-1)});
  const at::ScalarType dtype = rows.scalar_type();
  LinearGrads grads;
  grads.x = at::mm(rows, weight.to(dtype)).view(input.sizes()).to(input.scalar_type());
  if (weight.requires_grad()) {
    const at::Tensor inputs = input.reshape({-1, input.size(-1)}).to(dtype);
    if (!accumulate_fused(weight, rows, inputs))
      grads.weight = at::mm(rows.t(), inputs).to(weight.scalar_type());
  }
  if (bias.defined()) grads.bias = sum_of_rows(rows).to(bias.scalar_type());
  return grads;
}

void check_no_double_backward(std::string_view op) {
  MEZZO_CHECK(
      !at::GradMode::is_enabled(), op,
      "its gradient cannot be differentiated again. Hint: that of libtorch's ops, one by one, "
      "can");
}

}  // namespace mezzo::kernels
