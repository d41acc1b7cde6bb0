#include "mezzo/kernels/fp8/fused.h"

#include <ATen/ops/gelu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/kernels/fp8/ops.h"
#include "mezzo/kernels/fused_linear/norm_grads.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/swiglu/swiglu.h"

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
                               const std::optional<at::Tensor>& maybe_bias, double eps,
                               NormKind kind) {
    const at::Tensor branch = maybe_branch.value_or(at::Tensor());
    const at::Tensor bias = maybe_bias.value_or(at::Tensor());
    const ResidualNorm norm = residual_norm(x, branch, weight, bias, eps, kDtype, kind);
    ctx->set_materialize_grads(false);
    const bool has_mean = norm.mean.defined();
    ctx->mark_non_differentiable(has_mean ? variable_list{norm.mean, norm.rstd}
                                          : variable_list{norm.rstd});
    keep_branch_dtype(*ctx, branch);
    ctx->save_for_backward({norm.sum, norm.mean, norm.rstd, weight, bias});
    return has_mean ? variable_list{norm.sum, norm.normed, norm.mean, norm.rstd}
                    : variable_list{norm.sum, norm.normed, norm.rstd};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    check_no_double_backward(saved[1].defined() ? "residual_norm_fp8_linear"
                                                : "residual_rms_norm_fp8_linear");
    const NormGrads norm =
        norm_backward(grads[0], grads[1],
                      {saved[0], saved[1], saved[2], saved[3], saved[4], kept_branch_dtype(*ctx)},
                      /*wants_normed=*/false);
    return {norm.x, norm.branch, norm.weight, norm.bias, {}, {}};
  }
};

class SwigluNode : public torch::autograd::Function<SwigluNode> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    return swiglu(gate_up);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward("swiglu_fp8_linear");
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    return {swiglu_backward(grads[0].contiguous(), gate_up)};
  }
};

at::Tensor norm_from(const std::vector<at::Tensor>& from) {
  return norm_again(from[0], from[1], from[2], from[3], from[4], kDtype);
}

at::Tensor gelu_of(const at::Tensor& x) { return at::gelu(x, "tanh").to(kDtype); }

at::Tensor gelu_from(const std::vector<at::Tensor>& from) { return gelu_of(from[0]); }

at::Tensor swiglu_of(const at::Tensor& gate_up) {
  static const auto op = typed_op<decltype(swiglu_autograd)>("mezzo::swiglu");
  return op.call(gate_up).to(kDtype);
}

at::Tensor swiglu_from(const std::vector<at::Tensor>& from) { return swiglu_of(from[0]); }

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> residual_norm_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& weight,
    const std::optional<at::Tensor>& bias, double eps) {
  const variable_list out = ResidualNormNode::apply(x, branch, weight, bias, eps, NormKind::kLayer);
  return {out[0], out[1], out[2], out[3]};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> residual_rms_norm_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& weight,
    double eps) {
  const std::optional<at::Tensor> no_bias;
  const variable_list out =
      ResidualNormNode::apply(x, branch, weight, no_bias, eps, NormKind::kRms);
  return {out[0], out[1], out[2]};
}

at::Tensor swiglu_autograd(const at::Tensor& gate_up) { return SwigluNode::apply(gate_up); }

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

std::tuple<at::Tensor, at::Tensor> residual_rms_norm_fp8_linear(
    const at::Tensor& x, const std::optional<at::Tensor>& branch, const at::Tensor& norm_weight,
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps, bool recompute,
    const std::shared_ptr<Fp8Recipe>& recipe) {
  static const auto op = typed_op<decltype(residual_rms_norm_autograd)>("mezzo::residual_rms_norm");
  const auto [sum, normed, rstd] = op.call(x, branch, norm_weight, eps);
  Fp8Source source;
  if (recompute) source = {&norm_from, {sum, at::Tensor(), rstd, norm_weight, at::Tensor()}};
  return {sum, fp8_linear(normed, weight, bias, recipe, source)};
}

at::Tensor gelu_fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias, bool recompute,
                           const std::shared_ptr<Fp8Recipe>& recipe) {
  Fp8Source source;
  if (recompute) source = {&gelu_from, {x}};
  return fp8_linear(gelu_of(x), weight, bias, recipe, source);
}

at::Tensor swiglu_fp8_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                             const std::optional<at::Tensor>& bias, bool recompute,
                             const std::shared_ptr<Fp8Recipe>& recipe) {
  Fp8Source source;
  if (recompute) source = {&swiglu_from, {gate_up}};
  return fp8_linear(swiglu_of(gate_up), weight, bias, recipe, source);
}

}  // namespace mezzo::kernels
