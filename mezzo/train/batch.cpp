#include "mezzo/train/batch.h"

#include <span>

#include <ATen/ops/empty.h>

namespace mezzo::train {

Batch read_batch(const data::TokenView& split, const std::vector<int64_t>& offsets, int64_t context,
                 at::Device device) {
  const int64_t rows = static_cast<int64_t>(offsets.size()), columns = context + 1;
  // From pinned memory it is copied while the host goes on: between two of the GPU's steps.
  const bool is_pinned = device.is_cuda();
  const at::Tensor windows =
      at::empty({rows, columns}, at::TensorOptions(at::kLong).pinned_memory(is_pinned));
  int64_t* const begin = windows.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    split.read(offsets[static_cast<size_t>(row)],
               std::span(begin + row * columns, static_cast<size_t>(columns)));
  }
  const at::Tensor there = windows.to(device, /*non_blocking=*/is_pinned);
  return {there.narrow(1, 0, context).contiguous(), there.narrow(1, 1, context).contiguous()};
}

}  // namespace mezzo::train
