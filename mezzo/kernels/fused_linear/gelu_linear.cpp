#include "mezzo/kernels/fused_linear/gelu_linear.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/kernels/fused_linear/autograd.h"
#include "mezzo/kernels/fused_linear/linear_grads.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/ops.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class GeluLinear : public torch::autograd::Function<GeluLinear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& maybe_bias, bool recompute) {
    const at::Tensor bias = maybe_bias.value_or(at::Tensor()), active = tanh_gelu(x);
    ctx->save_for_backward({x, weight, bias, recompute ? at::Tensor() : active});
    return at::linear(active, weight, bias.defined() ? bias.to(weight.scalar_type()) : bias);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward("gelu_linear");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    const at::Tensor active = saved[3].defined() ? saved[3] : tanh_gelu(x);
    const LinearGrads linear = linear_backward(grads[0], active, weight, bias);
    return {tanh_gelu_backward(linear.x, x), linear.weight, linear.bias, {}};
  }
};

}  // namespace

at::Tensor gelu_linear_autograd(const at::Tensor& x, const at::Tensor& weight,
                                const std::optional<at::Tensor>& bias, bool recompute) {
  return GeluLinear::apply(x, weight, bias, recompute);
}

at::Tensor gelu_linear(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, bool recompute) {
  register_ops();
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mezzo::gelu_linear", "")
                             .typed<decltype(gelu_linear_autograd)>();
  return op.call(x, weight, bias, recompute);
}

}  // namespace mezzo::kernels
