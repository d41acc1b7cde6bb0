#include "mezzo/amp/unscale.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/to_device.h"
#include "mezzo/kernels/cuda/flavour.h"

namespace mezzo {
namespace {

// One kernel call each.
using GradientsByKind = std::map<std::pair<std::string, at::ScalarType>, std::vector<at::Tensor>>;

// The tensor that holds the gradient's numbers. An fp16 sparse gradient is summed over its
// duplicate indices first: 64000 + 64000 at one index is an overflow that its values alone do not
// show.
at::Tensor values_to_unscale(at::Tensor& grad) {
  if (!grad.is_sparse()) return grad;
  if (grad.scalar_type() == at::kHalf) grad = grad.coalesce();
  return grad._values();
}

void check_dtype(const at::Tensor& grad, bool allow_fp16) {
  MEZZO_CHECK(allow_fp16 || grad.scalar_type() != at::kHalf, "GradScaler.unscale_",
              "a gradient of shape {} is fp16, and so is its parameter: unscaling it can "
              "underflow. Hint: keep the parameters in fp32 and use Autocast, or set "
              "allow_fp16_grads",
              fmt::join(grad.sizes(), " x "));
}

// Unscales those that are on a CPU, and says whether one of them was bad.
bool unscale_on_cpu(std::vector<UnscaledGradient>& gradients, const at::Tensor& inv_scale) {
  std::vector<at::Tensor> values;
  std::vector<UnscaledGradient*> on_cpu;
  for (UnscaledGradient& gradient : gradients) {
    at::Tensor& grad = gradient.parameter.mutable_grad();
    if (!grad.is_cpu()) continue;
    values.push_back(values_to_unscale(grad));
    on_cpu.push_back(&gradient);
  }
  if (values.empty()) return false;
  const float factor = *inv_scale.cpu().const_data_ptr<float>();
  const std::vector<kernels::TensorStats> facts =
      kernels::check_and_unscale_(values, factor, float_format(at::kHalf).smallest_normal);
  bool is_bad = false;
  for (size_t i = 0; i < facts.size(); ++i) {
    on_cpu[i]->facts = facts[i];
    is_bad = is_bad || facts[i].non_finite() > 0;
  }
  return is_bad;
}

GradientsByKind gradients_elsewhere(std::vector<UnscaledGradient>& gradients) {
  GradientsByKind by_kind;
  for (UnscaledGradient& gradient : gradients) {
    at::Tensor& grad = gradient.parameter.mutable_grad();
    if (grad.is_cpu()) continue;
    by_kind[{grad.device().str(), grad.scalar_type()}].push_back(values_to_unscale(grad));
  }
  return by_kind;
}

}  // namespace

Unscaled unscale_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                           bool allow_fp16) {
  at::NoGradGuard no_grad;  // with create_graph the gradients themselves require grad
  Unscaled result;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
      check_dtype(parameter.grad(), allow_fp16);
      result.gradients.push_back({parameter, std::nullopt});
    }
  }
  if (result.gradients.empty()) return result;
  const bool is_bad = unscale_on_cpu(result.gradients, inv_scale);
  result.found_inf = at::full({}, is_bad ? 1.0 : 0.0, inv_scale.options());
  std::map<std::string, at::Tensor> found_inf_by_device;
  for (const auto& [kind, grads] : gradients_elsewhere(result.gradients)) {
    const at::Device device = grads.front().device();
    at::Tensor& found_inf = found_inf_by_device[kind.first];
    if (!found_inf.defined()) found_inf = at::zeros({}, inv_scale.options().device(device));
    check_and_unscale_(grads, found_inf, to_device(inv_scale, device));
  }
  // The largest, not the sum: a fused optimizer skips on exactly 1, and a sum over two devices
  // would be 2.
  for (const auto& [device, found_inf] : found_inf_by_device) {
    result.found_inf = at::maximum(result.found_inf, to_device(found_inf, inv_scale.device()));
  }
  return result;
}

void check_and_unscale_(const std::vector<at::Tensor>& grads, at::Tensor& found_inf,
                        const at::Tensor& inv_scale) {
  if (grads.front().is_cuda() && grads.front().scalar_type() == at::kBFloat16) {
    if constexpr (kernels::kHasCuda) {
      if (std::all_of(grads.begin(), grads.end(), &kernels::cuda::takes_check))
        return kernels::cuda::check_and_unscale_on_device_(grads, found_inf, inv_scale);
    }
    check_and_unscale_plain_(grads, found_inf, inv_scale);
  } else {
    at::_amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inv_scale);
  }
}

void check_and_unscale_plain_(const std::vector<at::Tensor>& grads, at::Tensor& found_inf,
                              const at::Tensor& inv_scale) {
  std::vector<at::Tensor> filled;  // an empty tensor has no largest element
  for (const at::Tensor& grad : grads) {
    if (grad.numel() > 0) filled.push_back(grad);
  }
  if (filled.empty()) return;
  const auto largest =
      at::_foreach_norm(filled, std::numeric_limits<double>::infinity(), at::kFloat);
  const at::Tensor is_bad = at::isfinite(at::stack(largest)).all().logical_not();
  found_inf.masked_fill_(is_bad, 1.0);
  // One dimension makes inv_scale promote the product to fp32: as a 0-dim tensor it would be
  // rounded to the gradient's 16 bits first on CUDA.
  for (at::Tensor& grad : filled) grad.mul_(grad.dim() == 0 ? inv_scale : inv_scale.view({1}));
}

}  // namespace mezzo
