#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/data/token_file.h"

namespace mezzo::train {

/// What a model sees at once: targets are the tokens one position later.
struct Batch {
  at::Tensor tokens;   // [B, T] int64
  at::Tensor targets;  // [B, T] int64
};

/// The windows of `context` + 1 tokens at `offsets`, one a row, on `device`.
Batch read_batch(const data::TokenView& split, const std::vector<int64_t>& offsets, int64_t context,
                 at::Device device);

}  // namespace mezzo::train
