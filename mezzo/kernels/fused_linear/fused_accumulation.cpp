#include "mezzo/kernels/fused_linear/fused_accumulation.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/variable.h>

#include "mezzo/kernels/ops.h"

namespace mezzo::kernels {
namespace {

thread_local bool is_enabled = false;

bool has_hooks(const at::Tensor& weight) {
  return !torch::autograd::impl::hooks(weight).empty() ||
         torch::autograd::impl::post_acc_grad_hooks(weight) != nullptr;
}

bool serves(const at::Tensor& weight) {
  if (!weight.is_cpu() || !weight.is_leaf() || weight.grad_dtype() != at::kFloat) return false;
  const at::Tensor& sum = weight.grad();
  const bool fits = !sum.defined() || (sum.scalar_type() == at::kFloat && sum.is_contiguous() &&
                                       sum.sizes() == weight.sizes());
  return fits && !has_hooks(weight);
}

}  // namespace

FusedAccumulation::FusedAccumulation() : before_(is_enabled) { is_enabled = true; }
FusedAccumulation::~FusedAccumulation() { is_enabled = before_; }

bool accumulate_fused(const at::Tensor& weight, const at::Tensor& grad, const at::Tensor& input) {
  if (!is_enabled || !serves(weight)) return false;
  at::Tensor& sum = weight.mutable_grad();
  if (!sum.defined()) sum = at::zeros(weight.sizes(), weight.options().dtype(at::kFloat));
  // As an op, so that who watches ops sees what it made.
  static const auto op =
      typed_op<at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&)>("mezzo::add_mm_");
  op.call(sum, grad.t(), input);
  return true;
}

}  // namespace mezzo::kernels
