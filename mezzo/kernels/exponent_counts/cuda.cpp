// exponent_counts.h on a GPU: a tensor to its address, and back what was counted.

#include "mezzo/kernels/exponent_counts/cuda.h"

#include <algorithm>
#include <bit>

#include <ATen/ops/zeros.h>

#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/exponent_counts/exponent_counts.h"

namespace mezzo::kernels::cuda {

ExponentCounts exponent_counts(const at::Tensor& tensor) {
  constexpr int64_t kWords = sizeof(DeviceExponentCounts) / sizeof(int64_t);
  const LaunchGuard launch(tensor);
  const at::Tensor x = aligned(tensor.detach());
  const at::Tensor counts = at::zeros({kWords}, x.options().dtype(at::kLong));
  launch_exponent_counts(x.const_data_ptr(), x.numel(), dtype_of(x.scalar_type()),
                         static_cast<DeviceExponentCounts*>(counts.mutable_data_ptr()),
                         launch.stream());
  const at::Tensor on_host = counts.cpu();
  const auto& of = *static_cast<const DeviceExponentCounts*>(on_host.const_data_ptr());
  ExponentCounts result;
  std::copy_n(of.by_exponent, result.by_exponent.size(), result.by_exponent.begin());
  result.zeros = static_cast<int64_t>(of.zeros);
  result.largest = std::bit_cast<float>(static_cast<uint32_t>(of.largest_bits));
  result.sum_squares = of.sum_squares;
  return result;
}

}  // namespace mezzo::kernels::cuda
