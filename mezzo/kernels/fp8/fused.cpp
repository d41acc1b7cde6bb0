#include "mezzo/kernels/fp8/fused.h"

#include <ATen/ops/gelu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/fp8/ops.h"
#include "mezzo/kernels/fused_linear/norm_grads.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr at::ScalarType kDtype = at::kBFloat16;  // of what is cast: fp8_linear()'s own

class ResidualNormNode : public torch::autograd::Function<ResidualNormNode> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const std::optional<at::Tensor>& maybe_branch,
                               const at::Tensor& weight,
                               const std::optional<at::Tensor>& maybe_bias, double eps) {
    const at::Tensor branch = maybe_branch.value_or(at::Tensor());
    const at::Tensor bias = maybe_bias.value_or(at::Tensor());
    const ResidualNorm norm = residual_norm(x, branch, weight, bias, eps, kDtype);
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable({norm.mean, norm.rstd});
    keep_branch_dtype(*ctx, branch);
    ctx->save_for_backward({norm.sum, norm.mean, norm.rstd, weight, bias});
    return {norm.sum, norm.normed, norm.mean, norm.rstd};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward("residual_norm_fp8_linear");
    const variable_list saved = ctx->get_saved_variables();
    const NormGrads norm =
        norm_backward(grads[0], grads[1],
                      {saved[0], saved[1], saved[2], saved[3], saved[4], kept_branch_dtype(*ctx)},
                      /*wants_normed=*/false);
    return {norm.x, norm.branch, norm.weight, norm.bias, {}};
  }
};

at::Tensor norm_from(const std::vector<at::Tensor>& from) {
  return norm_again(from[0], from[1], from[2], from[3], from[4], kDtype);
}

at::Tensor gelu_of(const at::Tensor& x) { return at::gelu(x, "tanh").to(kDtype); }

at::Tensor gelu_from(const std::vector<at::Tensor>& from) { return gelu_of(from[0]); }

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> residual_norm_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps) {
  const variable_list out = ResidualNormNode::apply(x, branch, weight, bias, eps);
  return {out[0], out[1], out[2], out[3]};
}

std::tuple<at::Tensor, at::Tensor> residual_norm_fp8_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const std::optional<at::Tensor>& norm_bias, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps, bool recompute,
    const std::shared_ptr<Fp8Recipe>& recipe) {
  static const auto op = typed_op<decltype(residual_norm_autograd)>("mezzo::residual_norm");
  const auto [sum, normed, mean, rstd] = op.call(x, branch, norm_weight, norm_bias, eps);
  Fp8Source source;
  if (recompute)
    source = {&norm_from, {sum, mean, rstd, norm_weight, norm_bias.value_or(at::Tensor())}};
  return {sum, fp8_linear(normed, weight, bias, recipe, source)};
}

at::Tensor gelu_fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias, bool recompute,
                           const std::shared_ptr<Fp8Recipe>& recipe) {
  Fp8Source source;
  if (recompute) source = {&gelu_from, {x}};
  return fp8_linear(gelu_of(x), weight, bias, recipe, source);
}

}  // namespace mezzo::kernels
