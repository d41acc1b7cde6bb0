#pragma once

#include <cstdint>
#include <functional>

namespace mezzo::data {

/// `requested`, or as many as the machine has processors if that is 0. Throws if negative.
int thread_count(int requested);

/// body(worker, index) for every index in [0, count), each once, on `threads` threads at most;
/// worker is in [0, threads) and runs one index at a time. The first exception stops the rest and
/// is thrown on.
void parallel_for(int64_t count, int threads,
                  const std::function<void(int worker, int64_t index)>& body);

}  // namespace mezzo::data
