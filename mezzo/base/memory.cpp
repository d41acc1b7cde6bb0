#include "mezzo/base/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include <sys/resource.h>

#include <ATen/Context.h>
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
    ++now_;
    if (const auto known = blocks_.find(pointer); known != blocks_.end()) {
      current_ -= known->second.bytes;
      if (known->second.is_activation) activations_ -= known->second.bytes;
      blocks_.erase(known);
    }
    if (bytes <= 0) return;
    // The tensor never comes to be. (c10's allocator, told no, does not take its storage back.)
    if (current_ + bytes > budget_)
      detail::fail<BudgetExceeded>("memory", "tensors need more than the budget of {} bytes",
                                   budget_);
    blocks_.emplace(pointer, Block{bytes, now_});
    current_ += bytes;
    if (current_ > peak_ && !holds_peak_) set_peak();
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
    set_peak();
  }

  void hold_peak(bool holds) {
    std::lock_guard lock(mutex_);
    holds_peak_ = holds;
  }

  void set_budget(int64_t bytes) {
    std::lock_guard lock(mutex_);
    budget_ = bytes;
  }

  void begin_forward() {
    std::lock_guard lock(mutex_);
    forward_began_ = now_;
  }

  // What this forward pass made and left are activations; so were those of them at a peak inside
  // it.
  void end_forward() {
    std::lock_guard lock(mutex_);
    for (auto& [pointer, block] : blocks_) {
      if (block.born <= forward_began_ || block.is_activation) continue;
      block.is_activation = true;
      activations_ += block.bytes;
      if (block.born <= peak_at_ && forward_began_ < peak_at_) activations_at_peak_ += block.bytes;
    }
  }

  int64_t activations_at_peak() const {
    std::lock_guard lock(mutex_);
    return activations_at_peak_;
  }

  // Of storage that is still there now.
  int64_t at_peak(const std::vector<at::Tensor>& tensors) const {
    std::lock_guard lock(mutex_);
    std::unordered_set<const void*> seen;
    int64_t bytes = 0;
    for (const at::Tensor& tensor : tensors) {
      if (!tensor.defined() || !tensor.has_storage()) continue;
      void* storage = tensor.storage().mutable_data();
      const auto block = blocks_.find(storage);
      if (block == blocks_.end() || block->second.born > peak_at_) continue;
      if (seen.insert(storage).second) bytes += block->second.bytes;
    }
    return bytes;
  }

 private:
  struct Block {
    int64_t bytes;
    int64_t born;  // when, in reports
    bool is_activation = false;
  };

  void set_peak() {
    peak_ = current_;
    peak_at_ = now_;
    activations_at_peak_ = activations_;
  }

  CpuReports* outer_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, Block> blocks_;
  int64_t budget_ = std::numeric_limits<int64_t>::max();
  int64_t now_ = 0;
  int64_t current_ = 0;
  int64_t activations_ = 0;  // live
  int64_t forward_began_ = 0;
  int64_t peak_ = 0;
  int64_t peak_at_ = 0;
  bool holds_peak_ = false;
  int64_t activations_at_peak_ = 0;
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
    // Before that its allocator knows no device, and throws: no tensor need have been there yet.
    at::globalContext().lazyInitDevice(device_.type());
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

TensorMemoryMeter::Aside::Aside(TensorMemoryMeter& meter)
    : meter_(meter), peak_(meter.peak_bytes()) {
  if (meter_.cpu_) meter_.cpu_->reports->hold_peak(true);
}

// An allocator of a device keeps its peak itself: it begins anew, and what it was stays beside it.
TensorMemoryMeter::Aside::~Aside() {
  if (meter_.cpu_) {
    meter_.cpu_->reports->hold_peak(false);
  } else {
    meter_.reset_peak();
    meter_.earlier_peak_ = peak_;
  }
}

int64_t TensorMemoryMeter::current_bytes() const {
  return cpu_ ? cpu_->reports->current() : allocated_bytes(device_).current;
}

int64_t TensorMemoryMeter::peak_bytes() const {
  return cpu_ ? cpu_->reports->peak() : std::max(earlier_peak_, allocated_bytes(device_).peak);
}

void TensorMemoryMeter::reset_peak() {
  if (cpu_) {
    cpu_->reports->reset_peak();
  } else {
    c10::getDeviceAllocator(device_.type())->resetPeakStats(device_.index());
    earlier_peak_ = 0;
  }
}

void TensorMemoryMeter::set_budget(int64_t bytes) {
  MEZZO_CHECK(cpu_ != nullptr, "TensorMemoryMeter",
              "a budget can be held on a CPU only, but this meter's device is {}", device_.str());
  cpu_->reports->set_budget(bytes);
}

void TensorMemoryMeter::begin_forward() {
  if (cpu_) cpu_->reports->begin_forward();
}

void TensorMemoryMeter::end_forward() {
  if (cpu_) cpu_->reports->end_forward();
}

BytesByKind TensorMemoryMeter::peak_by_kind(const std::vector<at::Tensor>& weights,
                                            const std::vector<at::Tensor>& gradients,
                                            const std::vector<at::Tensor>& optimizer_state) const {
  MEZZO_CHECK(cpu_ != nullptr, "TensorMemoryMeter",
              "the peak is known by kind on a CPU only, but this meter's device is {}",
              device_.str());
  BytesByKind kinds;
  kinds.weights = cpu_->reports->at_peak(weights);
  kinds.gradients = cpu_->reports->at_peak(gradients);
  kinds.optimizer_state = cpu_->reports->at_peak(optimizer_state);
  kinds.activations = cpu_->reports->activations_at_peak();
  kinds.temporaries = cpu_->reports->peak() - kinds.weights - kinds.gradients -
                      kinds.optimizer_state - kinds.activations;
  return kinds;
}

}  // namespace mezzo
