#include "mezzo/kernels/grad_check/grad_check.h"

#include "mezzo/base/check.h"
#include "mezzo/kernels/grad_check/cpu.h"

namespace mezzo::kernels {

std::vector<GradFacts> check_and_unscale_(const std::vector<at::Tensor>& grads, float inv_scale,
                                          double smallest_normal) {
  std::vector<at::Tensor> dense;
  std::vector<size_t> places;  // of the dense ones among all
  dense.reserve(grads.size());
  places.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    const auto dtype = grads[i].scalar_type();
    MEZZO_CHECK(
        dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble,
        "check_and_unscale_", "a gradient must be fp32, fp16, bf16 or fp64, but is {}",
        c10::toString(dtype));
    if (!grads[i].is_cpu() || !grads[i].is_non_overlapping_and_dense()) continue;
    dense.push_back(grads[i]);
    places.push_back(i);
  }
  const std::vector<GradFacts> of_dense = check_and_unscale_cpu_(dense, inv_scale, smallest_normal);
  std::vector<GradFacts> facts(grads.size());
  for (size_t i = 0, next = 0; i < grads.size(); ++i) {
    const bool is_dense = next < places.size() && places[next] == i;
    facts[i] = is_dense ? of_dense[next++]
                        : check_and_unscale_reference_(grads[i], inv_scale, smallest_normal);
  }
  return facts;
}

}  // namespace mezzo::kernels
