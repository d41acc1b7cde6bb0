#include "mezzo/kernels/fused_linear/residual_norm_linear.h"

#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/fused_linear/autograd.h"
#include "mezzo/kernels/fused_linear/linear_grads.h"
#include "mezzo/kernels/fused_linear/norm_grads.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;  // what Function takes where none may come

class ResidualNormLinear : public torch::autograd::Function<ResidualNormLinear> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const OptionalTensor& maybe_branch, const at::Tensor& norm_weight,
                               const OptionalTensor& maybe_norm_bias, const at::Tensor& weight,
                               const OptionalTensor& maybe_bias, double eps, bool recompute,
                               NormKind kind) {
    const at::Tensor branch = maybe_branch.value_or(at::Tensor());
    const at::Tensor norm_bias = maybe_norm_bias.value_or(at::Tensor());
    const at::Tensor bias = maybe_bias.value_or(at::Tensor());
    const at::ScalarType dtype = weight.scalar_type();
    const ResidualNorm norm = residual_norm(x, branch, norm_weight, norm_bias, eps, dtype, kind);
    at::Tensor y = at::linear(norm.normed, weight, bias.defined() ? bias.to(dtype) : bias);
    ctx->set_materialize_grads(false);
    keep_branch_dtype(*ctx, branch);
    ctx->save_for_backward({norm.sum, norm.mean, norm.rstd, norm_weight, norm_bias, weight, bias,
                            recompute ? at::Tensor() : norm.normed});
    return {norm.sum, y};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &sum = saved[0], &mean = saved[1], &rstd = saved[2], &norm_weight = saved[3],
                     &norm_bias = saved[4], &weight = saved[5], &bias = saved[6];
    check_no_double_backward(mean.defined() ? "residual_norm_linear" : "residual_rms_norm_linear");
    const at::Tensor &normed = saved[7], &grad_y = grads[1];
    at::Tensor grad_normed;
    if (grad_y.defined()) grad_normed = linear_grad_of_input(grad_y, weight, weight.scalar_type());
    const NormGrads norm = norm_backward(
        grads[0], grad_normed, {sum, mean, rstd, norm_weight, norm_bias, kept_branch_dtype(*ctx)},
        /*wants_normed=*/!normed.defined());
    LinearGrads linear;
    if (grad_y.defined())
      linear = linear_grads(grad_y, normed.defined() ? normed : norm.normed, weight, bias);
    return {norm.x, norm.branch, norm.weight, norm.bias, linear.weight, linear.bias, {}, {}, {}};
  }
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> residual_norm_linear_autograd(
    const at::Tensor& x, const OptionalTensor& branch, const at::Tensor& norm_weight,
    const OptionalTensor& norm_bias, const at::Tensor& weight, const OptionalTensor& bias,
    double eps, bool recompute) {
  const variable_list out = ResidualNormLinear::apply(x, branch, norm_weight, norm_bias, weight,
                                                      bias, eps, recompute, NormKind::kLayer);
  return {out[0], out[1]};
}

std::tuple<at::Tensor, at::Tensor> residual_rms_norm_linear_autograd(
    const at::Tensor& x, const OptionalTensor& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const OptionalTensor& bias, double eps, bool recompute) {
  const variable_list out = ResidualNormLinear::apply(x, branch, norm_weight, OptionalTensor(),
                                                      weight, bias, eps, recompute, NormKind::kRms);
  return {out[0], out[1]};
}

std::tuple<at::Tensor, at::Tensor> residual_norm_linear(
    const at::Tensor& x, const OptionalTensor& branch, const at::Tensor& norm_weight,
    const OptionalTensor& norm_bias, const at::Tensor& weight, const OptionalTensor& bias,
    double eps, bool recompute) {
  static const auto op =
      typed_op<decltype(residual_norm_linear_autograd)>("mezzo::residual_norm_linear");
  return op.call(x, branch, norm_weight, norm_bias, weight, bias, eps, recompute);
}

std::tuple<at::Tensor, at::Tensor> residual_rms_norm_linear(
    const at::Tensor& x, const OptionalTensor& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const OptionalTensor& bias, double eps, bool recompute) {
  static const auto op =
      typed_op<decltype(residual_rms_norm_linear_autograd)>("mezzo::residual_rms_norm_linear");
  return op.call(x, branch, norm_weight, weight, bias, eps, recompute);
}

}  // namespace mezzo::kernels
