#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "mezzo/kernels/ceil_div.h"

namespace mezzo::kernels::tiled {

/// Into how many parts the tiles of two sides are cut; a thread takes one part of each.
struct Shares {
  int64_t firsts, seconds;
};

/// Those, at most one a thread, whose largest has the fewest tiles; of such, those that share out
/// the first side most, as every part of it is packed once for each part of the second.
constexpr Shares shares_of(int64_t threads, int64_t first_tiles, int64_t second_tiles) {
  Shares best{1, 1};
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int64_t firsts = std::min(threads, first_tiles); firsts > 0; --firsts) {
    const int64_t seconds = std::min(threads / firsts, second_tiles);
    const int64_t most = ceil_div(first_tiles, firsts) * ceil_div(second_tiles, seconds);
    if (most < fewest) {
      best = {firsts, seconds};
      fewest = most;
    }
  }
  return best;
}

}  // namespace mezzo::kernels::tiled
