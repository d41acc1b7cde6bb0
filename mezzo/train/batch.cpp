#include "mezzo/train/batch.h"

#include <span>

#include <ATen/ops/empty.h>

namespace mezzo::train {

Batch read_batch(const data::TokenView& split, const std::vector<int64_t>& offsets, int64_t context,
                 at::Device device) {
  const int64_t rows = static_cast<int64_t>(offsets.size()), columns = context + 1;
  const at::Tensor windows = at::empty({rows, columns}, at::kLong);
  int64_t* const begin = windows.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    split.read(offsets[static_cast<size_t>(row)],
               std::span(begin + row * columns, static_cast<size_t>(columns)));
  }
  return {windows.narrow(1, 0, context).contiguous().to(device),
          windows.narrow(1, 1, context).contiguous().to(device)};
}

}  // namespace mezzo::train
