#include "mezzo/base/arena.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>

#include <fmt/format.h>
#include <sanitizer/asan_interface.h>  // nothing but for AddressSanitizer
#include <sys/mman.h>

#include "mezzo/base/check.h"
#include "mezzo/base/log.h"

namespace mezzo {
namespace {

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Arena::Arena(size_t address_bytes) {
  // PROT_NONE: addresses alone, which no limit on memory counts.
  const size_t reserved = round_up(address_bytes, kFrame) + kFrame;
  void* reservation =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, /*offset=*/0);
  if (reservation == MAP_FAILED) {
    log("memory", fmt::format("no memory is reused: the system refuses {} bytes of addresses ({})",
                              reserved, std::strerror(errno)));
    return;
  }
  reservation_ = reservation;
  reserved_ = reserved;
  const auto address = reinterpret_cast<uintptr_t>(reservation);
  base_ = static_cast<char*>(reservation) + (round_up(address, kFrame) - address);
  size_ = reserved - kFrame;
  ::madvise(base_, size_, MADV_HUGEPAGE);  // no harm where there are none
  insert(0, size_, /*warm_end=*/0);
}

Arena::~Arena() {
  if (reservation_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(base_, resident_.size() * kFrame);
  ::munmap(reservation_, reserved_);
}

bool Arena::owns(const void* pointer) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto base = reinterpret_cast<uintptr_t>(base_);
  return address - base < size_;  // below the base it wraps around
}

void* Arena::take(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes > size_) return nullptr;
  const size_t size = round_up(bytes, kPage);
  const auto range = best_fit(size);
  if (range == free_.end()) return nullptr;
  const size_t begin = range->first, end = begin + size;
  const FreeRange found = range->second;
  if (!open_up_to(end)) return nullptr;

  erase(range);
  make_resident(begin, end);
  if (end < found.end) insert(end, found.end, std::max(end, found.warm_end));
  live_.emplace(begin, size);
  live_bytes_ += size;
  peak_live_ = std::max(peak_live_, live_bytes_);
  // Only now: the block's memory comes when it is first written to, so it is no early peak.
  trim(peak_live_ + peak_live_ / kSlack);
  peak_mapped_ = std::max(peak_mapped_, mapped_);
  ASAN_UNPOISON_MEMORY_REGION(base_ + begin, bytes);
  return base_ + begin;
}

void Arena::give(void* block) {
  std::lock_guard lock(mutex_);
  size_t begin = static_cast<char*>(block) - base_;
  const auto live = live_.find(begin);
  MEZZO_INTERNAL_CHECK(live != live_.end());
  size_t end = begin + live->second;
  ASAN_POISON_MEMORY_REGION(block, live->second);
  live_bytes_ -= live->second;
  live_.erase(live);

  size_t warm_end = end;
  if (const auto next = free_.find(end); next != free_.end()) {
    end = next->second.end;
    warm_end = next->second.warm_end;
    erase(next);
  }
  if (auto previous = free_.lower_bound(begin); previous != free_.begin()) {
    previous = std::prev(previous);
    if (previous->second.end == begin) {
      if (previous->second.warm_end < begin) warm_end = previous->second.warm_end;
      begin = previous->first;
      erase(previous);
    }
  }
  insert(begin, end, warm_end);
}

int64_t Arena::release() {
  std::lock_guard lock(mutex_);
  const size_t before = mapped_;
  trim(0);
  peak_live_ = live_bytes_;
  peak_mapped_ = mapped_;
  return static_cast<int64_t>(before - mapped_);
}

CpuMemory Arena::memory() const {
  std::lock_guard lock(mutex_);
  CpuMemory memory;
  memory.live = static_cast<int64_t>(live_bytes_);
  memory.mapped = static_cast<int64_t>(mapped_);
  memory.cached = memory.mapped - memory.live;
  memory.peak_live = static_cast<int64_t>(peak_live_);
  memory.peak_mapped = static_cast<int64_t>(peak_mapped_);
  return memory;
}

Arena::FreeRanges::iterator Arena::best_fit(size_t bytes) {
  for (const auto* sizes : {&by_warmth_, &by_size_}) {
    const auto found = sizes->lower_bound({bytes, 0});
    if (found != sizes->end()) return free_.find(found->second);
  }
  return free_.end();
}

// Memory may be asked for up to `end`. What the system does not have it refuses here.
bool Arena::open_up_to(size_t end) {
  const size_t open = resident_.size() * kFrame;
  if (end <= open) return true;
  const size_t more = round_up(end, kFrame) - open;
  if (::mprotect(base_ + open, more, PROT_READ | PROT_WRITE) != 0) return false;
  ASAN_POISON_MEMORY_REGION(base_ + open, more);
  resident_.resize(resident_.size() + more / kFrame, false);
  return true;
}

void Arena::make_resident(size_t begin, size_t end) {
  for (size_t frame = begin / kFrame; frame * kFrame < end; ++frame) {
    if (resident_[frame]) continue;
    resident_[frame] = true;
    mapped_ += kFrame;
  }
}

// It is known to be resident up to `warm_end`, and may be beyond.
void Arena::insert(size_t begin, size_t end, size_t warm_end) {
  for (size_t frame = warm_end / kFrame;
       warm_end < end && frame < resident_.size() && resident_[frame]; ++frame) {
    warm_end = std::min(end, (frame + 1) * kFrame);
  }
  free_.emplace(begin, FreeRange{end, warm_end});
  by_warmth_.emplace(warm_end - begin, begin);
  by_size_.emplace(end - begin, begin);
}

void Arena::erase(FreeRanges::iterator range) {
  const auto [begin, at] = *range;
  by_warmth_.erase({at.warm_end - begin, begin});
  by_size_.erase({at.end - begin, begin});
  free_.erase(range);
}

// The largest ranges first: they cost the fewest calls.
void Arena::trim(size_t limit) {
  for (auto range = by_size_.rbegin(); range != by_size_.rend() && mapped_ > limit; ++range) {
    cool(range->second, limit);
  }
}

// From the top, since blocks are cut from the bottom.
void Arena::cool(size_t begin, size_t limit) {
  FreeRange& range = free_.at(begin);
  const size_t first = round_up(begin, kFrame) / kFrame;
  const size_t last = std::min(range.end / kFrame, resident_.size());
  const size_t before = mapped_;
  size_t frame = last;
  while (frame > first && mapped_ > limit) {
    if (!resident_[--frame]) continue;
    resident_[frame] = false;
    mapped_ -= kFrame;
  }
  if (mapped_ == before) return;
  ::madvise(base_ + frame * kFrame, (last - frame) * kFrame, MADV_DONTNEED);
  by_warmth_.erase({range.warm_end - begin, begin});
  range.warm_end = std::min(range.warm_end, frame * kFrame);
  by_warmth_.emplace(range.warm_end - begin, begin);
}

}  // namespace mezzo
