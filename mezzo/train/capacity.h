#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mezzo/report/capacity.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// "16GiB", "512 MiB", "1.5G" (binary multiples; the B and the i may be left out), or a number of
/// bytes. Throws UsageError for anything else, and for less than 1 byte.
int64_t bytes_of(std::string_view text);

/// The largest batch of the run's model, and the largest preset at batch 1, whose training step's
/// tensors fit into the budget, in each mode: measured, each try in a process of its own that gives
/// up as soon as it needs more. Sequences are as long as the preset's context; what the step
/// accumulates, makes again and releases is the run's. Presets whose least_bytes() are more are
/// passed over. `say` gets a line a try. Nothing if `stop` became true; throws Error, with
/// what it said, for a try that ends for another reason than memory.
std::optional<report::Capacity> find_capacity(const std::vector<std::string>& modes,
                                              const RunConfig& run, int64_t budget,
                                              const std::function<void(const std::string&)>& say,
                                              const std::atomic<bool>& stop);

/// The largest number in [1, limit] that `fits`, tried as few times as peak bytes that grow in
/// proportion allow; 0 if 1 does not. peak_of(n): the bytes that n needs, or nothing if that is
/// more than the budget. Larger numbers than the answer's by a 32nd part and more do not fit.
struct LargestFit {
  int64_t number = 0;
  int64_t peak_bytes = 0;
};
LargestFit largest_that_fits(int64_t budget, int64_t limit,
                             const std::function<std::optional<int64_t>(int64_t)>& peak_of);

}  // namespace mezzo::train
