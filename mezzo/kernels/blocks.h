#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <ATen/Parallel.h>

#include "mezzo/kernels/ceil_div.h"

namespace mezzo::kernels {

/// The blocks of several tensors, one after the other, shared out among the threads: so that many
/// small tensors are no slower than a large one.
class Blocks {
 public:
  /// size: of a block, in numbers; the last of a tensor may have fewer.
  explicit Blocks(int64_t size) : size_(size) {}

  /// The next tensor's.
  void add(int64_t numel) { first_.push_back(first_.back() + ceil_div(numel, size_)); }

  /// The first block of tensor i; of the number of tensors, the number of blocks.
  int64_t first(size_t i) const { return first_[i]; }
  int64_t count() const { return first_.back(); }

  /// work(i, begin, end), in parallel: for blocks [begin, end), which are tensor i's.
  template <class Work>
  void share_out(Work work) const {
    constexpr int64_t kGrain = 32768;  // numbers that are worth a thread
    at::parallel_for(0, count(), kGrain / size_, [&](int64_t begin, int64_t end) {
      const auto after = std::upper_bound(first_.begin(), first_.end(), begin);
      for (auto i = static_cast<size_t>(after - first_.begin() - 1);
           i + 1 < first_.size() && first_[i] < end; ++i)
        work(i, std::max(begin, first_[i]), std::min(end, first_[i + 1]));
    });
  }

 private:
  int64_t size_;
  std::vector<int64_t> first_{0};
};

}  // namespace mezzo::kernels
