// The end of an MLP: its activation, then the linear layer. gelu_linear.h, swiglu_linear.h.

#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/fused_linear/autograd.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/fused_linear/linear_grads.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/swiglu/swiglu.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Gelu {
  static constexpr const char* kOp = "gelu_linear";
  static at::Tensor forward(const at::Tensor& x) { return tanh_gelu(x); }
  static at::Tensor backward(const at::Tensor& grad, const at::Tensor& x, at::Tensor* again) {
    return tanh_gelu_backward(grad, x, again);
  }
};

struct Swiglu {
  static constexpr const char* kOp = "swiglu_linear";
  static at::Tensor forward(const at::Tensor& gate_up) { return swiglu(gate_up); }
  static at::Tensor backward(const at::Tensor& grad, const at::Tensor& gate_up, at::Tensor* again) {
    return swiglu_backward(grad, gate_up, again);
  }
};

template <class Activation>
class ActivationLinear : public torch::autograd::Function<ActivationLinear<Activation>> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& maybe_bias, bool recompute) {
    const at::Tensor bias = maybe_bias.value_or(at::Tensor()), active = Activation::forward(x);
    ctx->save_for_backward({x, weight, bias, recompute ? at::Tensor() : active});
    return at::linear(active, weight, bias.defined() ? bias.to(weight.scalar_type()) : bias);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward(Activation::kOp);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    at::Tensor active = saved[3];
    const at::Tensor grad_x =
        Activation::backward(linear_grad_of_input(grads[0], weight, x.scalar_type()), x,
                             /*again=*/active.defined() ? nullptr : &active);
    const LinearGrads linear = linear_grads(grads[0], active, weight, bias);
    return {grad_x, linear.weight, linear.bias, {}};
  }
};

}  // namespace

at::Tensor gelu_linear_autograd(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias, bool recompute) {
  return ActivationLinear<Gelu>::apply(x, weight, bias, recompute);
}

at::Tensor swiglu_linear_autograd(const at::Tensor& gate_up, const at::Tensor& weight,
                                  const std::optional<at::Tensor>& bias, bool recompute) {
  return ActivationLinear<Swiglu>::apply(gate_up, weight, bias, recompute);
}

at::Tensor gelu_linear(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, bool recompute) {
  static const auto op = typed_op<decltype(gelu_linear_autograd)>("mezzo::gelu_linear");
  return op.call(x, weight, bias, recompute);
}

at::Tensor swiglu_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                         const std::optional<at::Tensor>& bias, bool recompute) {
  static const auto op = typed_op<decltype(swiglu_linear_autograd)>("mezzo::swiglu_linear");
  return op.call(gate_up, weight, bias, recompute);
}

}  // namespace mezzo::kernels
