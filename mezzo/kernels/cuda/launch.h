#pragma once

#include <cstdint>

#include "mezzo/kernels/ceil_div.h"

namespace mezzo::kernels::cuda {

// How work is laid out over blocks and threads: plain arithmetic, the same on every machine.

constexpr int kWarp = 32;

/// A block's threads for one row of C numbers, four to a thread and `items` times over.
struct RowLayout {
  int threads = 0;  ///< a multiple of kWarp up to 256; 0: the row does not fit
  int items = 0;    ///< 1, 2, 4 or 8
};

/// The fewest items with which the threads hold a row in their registers. C must be a multiple of
/// 4, for loads of four numbers, and at most 8192: else the row does not fit.
constexpr RowLayout row_layout(int64_t C) {
  constexpr int64_t kMostThreads = 256;
  constexpr int kMostItems = 8;
  if (C <= 0 || C % 4 != 0 || C > 4 * kMostThreads * kMostItems) return {};
  int items = 1;
  while (ceil_div(C / 4, items) > kMostThreads) items *= 2;
  return {static_cast<int>(ceil_div(ceil_div(C / 4, items), kWarp) * kWarp), items};
}

/// Of a kernel that could not be launched. Throws Error.
[[noreturn]] void launch_failed(const char* reason);

}  // namespace mezzo::kernels::cuda
