#include "mezzo/kernels/grad_check/grad_check.h"

#include <map>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/grad_check/cpu.h"

namespace mezzo::kernels {

namespace {

/// Gradients of one kernel, and their places among all.
struct Chosen {
  std::vector<at::Tensor> grads;
  std::vector<size_t> places;

  void add(const at::Tensor& grad, size_t place) {
    grads.push_back(grad);
    places.push_back(place);
  }
  void put(const std::vector<TensorStats>& own, std::vector<TensorStats>& all) const {
    for (size_t i = 0; i < places.size(); ++i) all[places[i]] = own[i];
  }
};

bool takes_gpu_kernel(const at::Tensor& grad) {
  if constexpr (kHasCuda) return cuda::takes_check(grad);
  return false;
}

}  // namespace

std::vector<TensorStats> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                            double smallest_normal) {
  for (const at::Tensor& grad : grads) {
    const auto dtype = grad.scalar_type();
    MEZZO_CHECK(
        dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble,
        "check_and_unscale_", "a gradient must be fp32, fp16, bf16 or fp64, but is {}",
        c10::toString(dtype));
  }
  std::vector<TensorStats> facts(grads.size());
  Chosen on_cpu;
  std::map<c10::DeviceIndex, Chosen> on_gpu;
  for (size_t i = 0; i < grads.size(); ++i) {
    if (grads[i].is_cpu() && grads[i].is_non_overlapping_and_dense()) {
      on_cpu.add(grads[i], i);
    } else if (takes_gpu_kernel(grads[i])) {
      on_gpu[grads[i].device().index()].add(grads[i], i);
    } else {
      facts[i] = reference::check_and_unscale_(grads[i], inv_scale, smallest_normal);
    }
  }
  on_cpu.put(cpu::check_and_unscale_(on_cpu.grads, inv_scale, smallest_normal), facts);
  if constexpr (kHasCuda) {
    for (const auto& [device, chosen] : on_gpu)
      chosen.put(cuda::check_and_unscale_(chosen.grads, inv_scale, smallest_normal), facts);
  }
  return facts;
}

}  // namespace mezzo::kernels
