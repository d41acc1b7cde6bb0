#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mezzo/base/cpu_memory.h"

namespace mezzo {

/// One range of addresses, reserved whole, out of which blocks are cut. Freed blocks merge with
/// their free neighbours and keep their memory, up to a bound. Backed by huge pages of 2 MiB where
/// the system has them ("frames" here, with or without). Thread-safe.
///
/// A block goes where memory already is: at the start of the free range whose resident part is the
/// smallest that is large enough. Only if there is none are addresses without memory used.
///
/// The bound: where a block needs memory from the system, free frames elsewhere are first given
/// back until mapped <= 17/16 peak_live. What is left above that is in frames that a live block
/// also touches: less than 4 MiB for each run of live blocks.
///
/// Built for AddressSanitizer, all memory outside the live blocks' own bytes is poisoned.
class Arena {
 public:
  static constexpr size_t kPage = size_t{4} << 10;
  static constexpr size_t kFrame = size_t{2} << 20;
  // Of the live peak, a 16th is kept beyond it. In steps of GPT-2 (nano, mini, gpt2; fp32,
  // amp-bf16, pure-bf16) blocks left to themselves lie so that up to 8.4 % is needed, and a 16th
  // has up to 5 % of the peak faulted in anew each step, mostly none; a 32nd up to 11 %.
  static constexpr size_t kSlack = 16;

  /// Reserves addresses, no memory. Where the system refuses them, take() has nothing to give, and
  /// the log says so ("memory").
  explicit Arena(size_t address_bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A block of at least `bytes` > 0, at a page's start, contents undefined; null if the addresses
  /// are used up or the system has no memory.
  void* take(size_t bytes);
  /// `block` came from take().
  void give(void* block);
  bool owns(const void* pointer) const;

  /// Gives all frames that hold no live byte back to the system; the peaks begin anew. Returns the
  /// bytes given back.
  int64_t release();
  CpuMemory memory() const;

  /// A fork in another thread while locked would leave the child locked for ever.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct FreeRange {
    size_t end;
    size_t warm_end;  // resident up to here
  };
  using FreeRanges = std::map<size_t, FreeRange>;  // by where they begin

  FreeRanges::iterator best_fit(size_t bytes);
  bool open_up_to(size_t end);
  void make_resident(size_t begin, size_t end);
  void insert(size_t begin, size_t end, size_t warm_end);
  void erase(FreeRanges::iterator range);
  void trim(size_t limit);
  void cool(size_t begin, size_t limit);

  mutable std::mutex mutex_;
  void* reservation_ = nullptr;
  size_t reserved_ = 0;
  char* base_ = nullptr;  // addresses below are bytes from here
  size_t size_ = 0;
  FreeRanges free_;
  std::set<std::pair<size_t, size_t>> by_warmth_;  // resident bytes at the beginning, beginning
  std::set<std::pair<size_t, size_t>> by_size_;    // bytes, beginning
  std::unordered_map<size_t, size_t> live_;        // beginning to bytes
  std::vector<bool> resident_;                     // each frame that was ever used
  size_t live_bytes_ = 0;
  size_t mapped_ = 0;
  size_t peak_live_ = 0;
  size_t peak_mapped_ = 0;
};

}  // namespace mezzo
