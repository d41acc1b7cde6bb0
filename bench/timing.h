#pragma once

#include <chrono>
#include <functional>

namespace mezzo::bench {

using Work = std::function<void()>;

inline double seconds_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace mezzo::bench
