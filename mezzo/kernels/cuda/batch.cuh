#pragma once

#include <algorithm>
#include <cstdint>

#include "mezzo/kernels/cuda/compiler.cuh"
#include "mezzo/kernels/cuda/launch.h"

namespace mezzo::kernels::cuda {

/// Several items of N numbers each, cut into tiles, which one kernel takes: a block a tile, those
/// of one item after those of another. It is the kernel's argument, which may take 4 KiB: no table
/// has to be copied to the GPU, and a graph keeps it.
template <class Item, class Shared, int kMost>
struct Batch {
  static constexpr int kMostItems = kMost;
  Item items[kMost];
  int first_tile[kMost + 1];
  int before;  // items of earlier batches
  Shared shared;

  /// The item of this tile.
  __device__ int item_of(int tile) const {
    int item = 0;
    while (first_tile[item + 1] <= tile) ++item;
    return item;
  }
};

/// Runs `kernel` on all items, in as many batches as they need.
template <class B, class Item, class Shared>
void launch_batches(void (*kernel)(B), const Item* items, int64_t count, const Shared& shared,
                    int64_t tile, int threads, void* stream) {
  static_assert(sizeof(B) <= 4096);
  for (int64_t begin = 0; begin < count; begin += B::kMostItems) {
    B batch{};
    batch.before = static_cast<int>(begin);
    batch.shared = shared;
    const auto here = static_cast<int>(std::min<int64_t>(B::kMostItems, count - begin));
    for (int i = 0; i < here; ++i) {
      batch.items[i] = items[begin + i];
      batch.first_tile[i + 1] =
          batch.first_tile[i] + static_cast<int>(ceil_div(items[begin + i].N, tile));
    }
    const int tiles = batch.first_tile[here];
    if (tiles > 0) launch(kernel, tiles, threads, stream, batch);
  }
}

}  // namespace mezzo::kernels::cuda
