#include "mezzo/kernels/ops.h"

#include <ATen/core/grad_mode.h>
#include <torch/library.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/fp8/ops.h"
#include "mezzo/kernels/fused_linear/autograd.h"
#include "mezzo/kernels/linear_cross_entropy/op.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "mezzo/kernels/rope/rotate.h"

namespace mezzo::kernels {
namespace {

at::Tensor& add_mm_op(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  MEZZO_CHECK(!at::GradMode::is_enabled() ||
                  !(sum.requires_grad() || a.requires_grad() || b.requires_grad()),
              "add_mm_",
              "has no gradient, and sum, a or b requires one. Hint: at::NoGradGuard, or "
              "sum + at::mm(a, b)");
  add_mm(sum, a, b);
  sum.unsafeGetTensorImpl()->bump_version();  // as any op that works in place
  return sum;
}

}  // namespace
}  // namespace mezzo::kernels

// Note [Ops in a static library]
// The dispatcher learns of the ops before main() from the static object behind TORCH_LIBRARY. A
// linker takes only those objects out of a static library in which it finds a name that is asked
// for, and nobody asks for that one: register_ops() is the name to ask for, and needs no body.

TORCH_LIBRARY(mezzo, m) {
  m.def(
      "linear_cross_entropy(Tensor x, Tensor weight, Tensor targets, int ignore_index=-100, "
      "float label_smoothing=0., float z_loss=0.) -> Tensor",
      &mezzo::kernels::linear_cross_entropy_op);
  m.def("add_mm_(Tensor(a!) sum, Tensor a, Tensor b) -> Tensor(a!)", &mezzo::kernels::add_mm_op);
  // What is named wide_ is not cast by autocast: the stream and its norm stay as they are.
  m.def(
      "residual_norm_linear(Tensor wide_x, Tensor? wide_branch, Tensor wide_norm_weight, "
      "Tensor? wide_norm_bias, Tensor weight, Tensor? wide_bias, float eps, bool recompute) -> "
      "(Tensor, Tensor)",
      &mezzo::kernels::residual_norm_linear_autograd);
  m.def(
      "residual_rms_norm_linear(Tensor wide_x, Tensor? wide_branch, Tensor wide_norm_weight, "
      "Tensor weight, Tensor? wide_bias, float eps, bool recompute) -> (Tensor, Tensor)",
      &mezzo::kernels::residual_rms_norm_linear_autograd);
  m.def(
      "residual_norm(Tensor wide_x, Tensor? wide_branch, Tensor wide_weight, Tensor? wide_bias, "
      "float eps) -> (Tensor, Tensor, Tensor, Tensor)",
      &mezzo::kernels::residual_norm_autograd);
  m.def(
      "residual_rms_norm(Tensor wide_x, Tensor? wide_branch, Tensor wide_weight, float eps) -> "
      "(Tensor, Tensor, Tensor)",
      &mezzo::kernels::residual_rms_norm_autograd);
  m.def("swiglu(Tensor gate_up) -> Tensor", &mezzo::kernels::swiglu_autograd);
  m.def(
      "fp8_cast(Tensor x, Tensor scale, ScalarType dtype, bool transposes, Tensor(a!)? amax) -> "
      "(Tensor, Tensor)",
      &mezzo::kernels::fp8_cast_op);
  m.def("attention_linear(Tensor qkv, int heads, Tensor weight, Tensor? wide_bias) -> Tensor",
        &mezzo::kernels::attention_linear_autograd);
  m.def("gelu_linear(Tensor x, Tensor weight, Tensor? wide_bias, bool recompute) -> Tensor",
        &mezzo::kernels::gelu_linear_autograd);
  m.def("swiglu_linear(Tensor gate_up, Tensor weight, Tensor? wide_bias, bool recompute) -> Tensor",
        &mezzo::kernels::swiglu_linear_autograd);
  m.def("rope(Tensor x, Tensor wide_table, bool is_interleaved=False) -> Tensor",
        &mezzo::kernels::rope_autograd);
}

namespace mezzo::kernels {

void register_ops() {}

}  // namespace mezzo::kernels
