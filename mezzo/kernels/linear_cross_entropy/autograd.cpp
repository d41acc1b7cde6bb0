#include "mezzo/kernels/linear_cross_entropy/autograd.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/linear_cross_entropy/elementwise.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// factor * x in `dtype`, multiplied in fp32 and rounded once, without a read of the factor.
at::Tensor scaled_on_device(const at::Tensor& x, const at::Tensor& factor, at::ScalarType dtype) {
  if (!x.defined()) return x;
  at::Tensor out = at::empty_like(x, x.options().dtype(dtype));
  return at::mul_out(out, x, factor);
}

// Note [Gradients with the loss]
// The logits' gradient needs the whole row's sum and nothing that comes later but one factor, the
// incoming gradient. Found with the loss it costs three products; in the backward pass, from logits
// computed anew, four. What is kept is what the products gave: fp32 sums are multiplied by the
// factor before they are rounded.
class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& targets, const LinearCrossEntropyOptions& options) {
    const LossAndGradients result = loss_and_gradients(
        x, weight, targets, options, {.x = x.requires_grad(), .weight = weight.requires_grad()});
    ctx->save_for_backward({result.grad_x, result.grad_weight, result.per_row});
    ctx->saved_data["sizes"] = x.sizes();
    ctx->saved_data["dtype"] = x.scalar_type();
    return result.loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    check_no_double_backward("linear_cross_entropy");
    const at::ScalarType dtype = ctx->saved_data["dtype"].toScalarType();
    const variable_list kept = ctx->get_saved_variables();
    const auto incoming = [&](const at::Tensor& grad) {
      return kept[2].defined() ? scaled_on_device(grad, grad_outputs[0] * kept[2], dtype)
                               : scaled(grad, grad_outputs[0].item<float>(), dtype);
    };
    at::Tensor grad_x = incoming(kept[0]);
    if (grad_x.defined()) grad_x = grad_x.view(ctx->saved_data["sizes"].toIntVector());
    return {grad_x, incoming(kept[1]), {}, {}};
  }
};

}  // namespace

at::Tensor linear_cross_entropy_autograd(const at::Tensor& x, const at::Tensor& weight,
                                         const at::Tensor& targets,
                                         const LinearCrossEntropyOptions& options) {
  const bool wants_gradient =
      at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  if (!wants_gradient) return loss_and_gradients(x, weight, targets, options, {}).loss;
  return LinearCrossEntropy::apply(x, weight, targets, options);
}

}  // namespace mezzo::kernels
