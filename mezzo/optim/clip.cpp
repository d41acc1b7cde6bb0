#include "mezzo/optim/clip.h"

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/base/to_device.h"
#include "mezzo/kernels/norm/norm.h"

namespace mezzo::optim {
namespace {

/// Gradients by device and dtype: what one foreach call takes.
using Groups = std::map<std::pair<std::string, at::ScalarType>, std::vector<at::Tensor>>;

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& params) {
  std::vector<at::Tensor> grads;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (const at::Tensor& param : params) {
    const at::Tensor& grad = param.grad();
    if (grad.defined() && seen.insert(param.unsafeGetTensorImpl()).second) grads.push_back(grad);
  }
  return grads;
}

Groups grouped(const std::vector<at::Tensor>& grads) {
  Groups groups;
  for (const at::Tensor& grad : grads)
    groups[{grad.device().str(), grad.scalar_type()}].push_back(grad);
  return groups;
}

/// None: the real type of a complex one, which the norm has by itself and may not be told.
std::optional<at::ScalarType> norm_dtype(at::ScalarType dtype) {
  if (at::isComplexType(dtype)) return std::nullopt;
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor total_norm(const Groups& groups, at::Device device) {
  std::vector<at::Tensor> norms;
  for (const auto& [place, grads] : groups) {
    const auto own = at::_foreach_norm(grads, 2, norm_dtype(place.second));
    norms.push_back(to_device(at::linalg_vector_norm(at::stack(own)), device));
  }
  auto dtype = at::kFloat;
  for (const auto& norm : norms) {
    dtype = at::promote_types(dtype, norm.scalar_type());
  }
  for (auto& norm : norms) {
    norm = norm.to(dtype);
  }
  return at::linalg_vector_norm(at::stack(norms));
}

/// Reading a number is free on a CPU, and multiplying by one is a pass over all memory.
bool is_known_to_be_one(const at::Tensor& factor) {
  return factor.is_cpu() && factor.item<double>() == 1.0;
}

}  // namespace

at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& params, double max_norm) {
  MEZZO_CHECK(max_norm > 0, "clip_grad_norm_", "max_norm must be > 0, but is {}", max_norm);
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> grads = gradients_of(params);
  if (grads.empty()) {
    return at::zeros({}, at::kFloat);
  }
  const at::Tensor norm = total_norm(grouped(grads), grads.front().device());
  if (std::isinf(max_norm)) return norm;
  clip_to_norm_(params, norm, max_norm);
  return norm;
}

void clip_to_norm_(const std::vector<at::Tensor>& params, const at::Tensor& norm, double max_norm) {
  const at::NoGradGuard no_grad;
  const Groups groups = grouped(gradients_of(params));
  const at::Tensor factor = (max_norm / (norm + 1e-6)).clamp_max(1.0);
  if (is_known_to_be_one(factor)) return;
  for (const auto& [place, group] : groups) {
    at::_foreach_mul_(group, to_device(factor, group.front().device()));
  }
}

at::Tensor grad_norm(const std::vector<at::Tensor>& params) {
  const std::vector<at::Tensor> grads = gradients_of(params);
  if (!grads.empty() && grads.front().is_cuda())
    return total_norm(grouped(grads), grads.front().device());
  const at::Device device = grads.empty() ? at::Device(at::kCPU) : grads.front().device();
  const auto norm = static_cast<float>(kernels::l2_norm(grads));  // Inf beyond its range
  return at::full({}, norm, at::TensorOptions(at::kFloat).device(device));
}

}  // namespace mezzo::optim
