#include "mezzo/kernels/exponent_counts/exponent_counts.h"

#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {

ExponentCounts exponent_counts(const at::Tensor& tensor) {
  if (tensor.numel() == 0 || tensor.layout() != at::kStrided)
    return reference::exponent_counts(tensor);
  if constexpr (kHasCuda) {
    if (cuda::takes(tensor)) return cuda::exponent_counts(tensor);
  }
  return cpu::takes(tensor) ? cpu::exponent_counts(tensor) : reference::exponent_counts(tensor);
}

}  // namespace mezzo::kernels
