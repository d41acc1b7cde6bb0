#include "mezzo/base/memory.h"

#include <algorithm>
#include <fstream>
#include <mutex>
#include <string>
#include <unordered_map>

#include <sys/resource.h>

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "mezzo/base/check.h"

namespace mezzo {

int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    int64_t kib = 0;
    if (key == "VmHWM:" && status >> kib) return kib * 1024;
    std::getline(status, key);
  }
  // Not every kernel (gVisor) has VmHWM. ru_maxrss is the same number in KiB.
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

// The sizes are kept here, by address, although the allocator reports a running total: that total
// goes wrong for good once a block is freed while nobody listens.
class TensorMemoryMeter::CpuReports : public c10::MemoryReportingInfoBase {
 public:
  explicit CpuReports(CpuReports* outer) : outer_(outer) {}

  void reportMemoryUsage(void* pointer, int64_t bytes, size_t total_allocated,
                         size_t total_reserved, c10::Device device) override {
    if (outer_ != nullptr) {
      outer_->reportMemoryUsage(pointer, bytes, total_allocated, total_reserved, device);
    }
    if (!device.is_cpu()) return;
    std::lock_guard lock(mutex_);
    if (const auto known = bytes_at_.find(pointer); known != bytes_at_.end()) {
      current_ -= known->second;
      bytes_at_.erase(known);
    }
    if (bytes <= 0) return;
    bytes_at_.emplace(pointer, bytes);
    current_ += bytes;
    peak_ = std::max(peak_, current_);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t current() const {
    std::lock_guard lock(mutex_);
    return current_;
  }
  int64_t peak() const {
    std::lock_guard lock(mutex_);
    return peak_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    peak_ = current_;
  }

 private:
  CpuReports* outer_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, int64_t> bytes_at_;
  int64_t current_ = 0;
  int64_t peak_ = 0;
};

struct TensorMemoryMeter::CpuHook {
  explicit CpuHook(CpuReports* outer)
      : reports(std::make_shared<CpuReports>(outer)),
        guard(c10::DebugInfoKind::PROFILER_STATE, reports) {}
  std::shared_ptr<CpuReports> reports;
  c10::DebugInfoGuard guard;
};

namespace {

c10::CachingAllocator::Stat allocated_bytes(c10::Device device) {
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

}  // namespace

TensorMemoryMeter::TensorMemoryMeter(c10::Device device) : device_(device) {
  if (!device_.is_cpu()) {
    if (!device_.has_index()) device_.set_index(0);
    reset_peak();
    return;
  }
  auto* found = c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE);
  auto* outer = dynamic_cast<CpuReports*>(found);
  MEZZO_CHECK(found == nullptr || outer != nullptr, "TensorMemoryMeter",
              "must be made while torch's profiler is off on this thread, but it is on");
  cpu_ = std::make_unique<CpuHook>(outer);
}

TensorMemoryMeter::~TensorMemoryMeter() = default;

int64_t TensorMemoryMeter::current_bytes() const {
  return cpu_ ? cpu_->reports->current() : allocated_bytes(device_).current;
}

int64_t TensorMemoryMeter::peak_bytes() const {
  return cpu_ ? cpu_->reports->peak() : allocated_bytes(device_).peak;
}

void TensorMemoryMeter::reset_peak() {
  if (cpu_) {
    cpu_->reports->reset_peak();
  } else {
    c10::getDeviceAllocator(device_.type())->resetPeakStats(device_.index());
  }
}

}  // namespace mezzo
