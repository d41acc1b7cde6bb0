// grad_check.h on a GPU: tensors to addresses.

#include "mezzo/kernels/grad_check/cuda.h"

#include <bit>

#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/grad_check/grad_check.h"

namespace mezzo::kernels::cuda {
namespace {

std::vector<Gradient> gradients_of(const std::vector<at::Tensor>& grads) {
  std::vector<Gradient> all;
  all.reserve(grads.size());
  for (const at::Tensor& grad : grads) {
    void* values = grad.mutable_data_ptr();
    all.push_back({.values = values,
                   .N = grad.numel(),
                   .dtype = dtype_of(grad.scalar_type()),
                   .is_aligned = reinterpret_cast<uintptr_t>(values) % 16 == 0});
  }
  return all;
}

/// As any op that works in place.
void mark_changed(const std::vector<at::Tensor>& grads) {
  for (const at::Tensor& grad : grads) grad.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

bool takes_check(const at::Tensor& grad) {
  return takes(grad) && grad.is_non_overlapping_and_dense();
}

std::vector<TensorStats> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                            double smallest_normal) {
  if (grads.empty()) return {};
  const LaunchGuard launch(grads.front());
  if (inv_scale != 1.0f) mark_changed(grads);
  const std::vector<Gradient> all = gradients_of(grads);
  const at::Tensor counts = make_counts(static_cast<int64_t>(grads.size()), grads.front().device());
  launch_check_and_unscale(all.data(), static_cast<int64_t>(all.size()),
                           {.inv_scale = nullptr,
                            .factor = inv_scale,
                            .found_inf = nullptr,
                            .facts = static_cast<DeviceFacts*>(counts.mutable_data_ptr()),
                            .smallest_normal = static_cast<float>(smallest_normal),
                            .norm = nullptr},
                           launch.stream());
  const at::Tensor on_host = counts.cpu();
  std::vector<TensorStats> facts;
  for (size_t i = 0; i < grads.size(); ++i) facts.push_back(facts_of(on_host, i, grads[i].numel()));
  return facts;
}

void check_and_unscale_on_device_(const std::vector<at::Tensor>& grads, const at::Tensor& found_inf,
                                  const at::Tensor& inv_scale) {
  if (grads.empty()) return;
  const LaunchGuard launch(grads.front());
  mark_changed(grads);
  const std::vector<Gradient> all = gradients_of(grads);
  launch_check_and_unscale(all.data(), static_cast<int64_t>(all.size()),
                           {.inv_scale = inv_scale.const_data_ptr<float>(),
                            .factor = 1.0f,
                            .found_inf = found_inf.mutable_data_ptr<float>(),
                            .facts = nullptr,
                            .smallest_normal = 0.0f,
                            .norm = nullptr},
                           launch.stream());
}

at::Tensor make_counts(int64_t gradients, c10::Device device) {
  constexpr int64_t kWords = sizeof(DeviceFacts) / sizeof(int64_t);
  return at::zeros({gradients, kWords}, at::TensorOptions(at::kLong).device(device));
}

void count_if_not_finite(const std::vector<at::Tensor>& grads, const at::Tensor& norm,
                         double smallest_normal, at::Tensor& counts) {
  for (const at::Tensor& grad : grads) MEZZO_INTERNAL_CHECK(grad.is_non_overlapping_and_dense());
  MEZZO_INTERNAL_CHECK(counts.size(0) >= static_cast<int64_t>(grads.size()));
  const LaunchGuard launch(norm);
  counts.zero_();
  const std::vector<Gradient> all = gradients_of(grads);
  launch_check_and_unscale(all.data(), static_cast<int64_t>(all.size()),
                           {.inv_scale = nullptr,
                            .factor = 1.0f,
                            .found_inf = nullptr,
                            .facts = static_cast<DeviceFacts*>(counts.mutable_data_ptr()),
                            .smallest_normal = static_cast<float>(smallest_normal),
                            .norm = norm.const_data_ptr<float>()},
                           launch.stream());
}

TensorStats facts_of(const at::Tensor& counts, size_t place, int64_t elements) {
  const DeviceFacts& here = static_cast<const DeviceFacts*>(counts.const_data_ptr())[place];
  return {.numel = elements,
          .nan = static_cast<int64_t>(here.nan),
          .positive_inf = static_cast<int64_t>(here.positive_inf),
          .negative_inf = static_cast<int64_t>(here.negative_inf),
          .zeros = static_cast<int64_t>(here.zeros),
          .subnormals = static_cast<int64_t>(here.subnormals),
          .largest = std::bit_cast<float>(static_cast<uint32_t>(here.largest_bits))};
}

}  // namespace mezzo::kernels::cuda
