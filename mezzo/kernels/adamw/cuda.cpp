// adamw.h on a GPU: tensors to addresses.

#include "mezzo/kernels/adamw/cuda.h"

#include "mezzo/kernels/adamw/pointers.h"
#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"

namespace mezzo::kernels::cuda {
namespace {

bool is_aligned(const AdamWAddresses& p) {
  for (const void* address :
       {static_cast<const void*>(p.weight), static_cast<const void*>(p.remainder), p.grad,
        static_cast<const void*>(p.exp_avg), static_cast<const void*>(p.exp_avg_sq)})
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return false;
  return true;
}

AdamWTensor tensor_of(const AdamWParam& param, const float* step) {
  const AdamWPointers p = adamw_pointers(param);
  return {p, dtype_of(p.weight_dtype), dtype_of(p.grad_dtype), is_aligned(p), step};
}

const float* address(const at::Tensor& number) {
  return number.defined() ? number.const_data_ptr<float>() : nullptr;
}

}  // namespace

bool takes_adamw(const at::Tensor& weight) { return weight.is_cuda(); }

void adamw_(const std::vector<AdamWParam>& params) {
  if (params.empty()) return;
  const LaunchGuard launch(params.front().weight);
  std::vector<AdamWTensor> tensors;
  tensors.reserve(params.size());
  for (const AdamWParam& p : params) tensors.push_back(tensor_of(p, nullptr));
  launch_adamw(tensors.data(), static_cast<int64_t>(tensors.size()), {}, launch.stream());
}

void adamw_on_device_(const std::vector<AdamWParam>& params, const std::vector<at::Tensor>& steps,
                      const AdamWOnDevice& shared) {
  if (params.empty()) return;
  check_adamw(params);
  const LaunchGuard launch(params.front().weight);
  std::vector<AdamWTensor> tensors;
  tensors.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    params[i].weight.unsafeGetTensorImpl()->bump_version();  // as any op that works in place
    tensors.push_back(tensor_of(params[i], address(steps[i])));
  }
  launch_adamw(tensors.data(), static_cast<int64_t>(tensors.size()),
               {.settings = shared.settings,
                .lr = address(shared.lr),
                .grad_scale = address(shared.grad_scale),
                .found_inf = address(shared.found_inf)},
               launch.stream());
}

}  // namespace mezzo::kernels::cuda
