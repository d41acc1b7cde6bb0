#include "mezzo/base/cpu_allocator.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include "mezzo/base/arena.h"
#include "mezzo/base/check.h"

namespace mezzo {
namespace {

constexpr size_t kLargeBytes = size_t{64} << 10;
constexpr size_t kMostAddresses = size_t{1} << 46;
// Any above libtorch's own, 0.
constexpr uint8_t kPriority = 100;

// Room enough that no pattern of sizes uses it up while memory is left; at most half of what the
// user allows (ulimit -v), since the other half is malloc's, and of what x86-64 has, 2^47 bytes.
size_t address_bytes() {
  const size_t memory = static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  return std::min({16 * memory, size_t{limit.rlim_cur / 2}, kMostAddresses});
}

// Never destroyed: tensors in static variables go after main() has returned.
Arena& arena() {
  static Arena& instance = []() -> Arena& {
    ::pthread_atfork([] { arena().lock(); }, [] { arena().unlock(); }, [] { arena().unlock(); });
    return *new Arena(address_bytes());
  }();
  return instance;
}

void* take_block(size_t bytes) {
  if (bytes >= kLargeBytes) {
    if (void* block = arena().take(bytes)) return block;
  }
  return c10::alloc_cpu(bytes);
}

void give_block(void* block) {
  if (block == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(block);
  if (arena().owns(block)) {
    arena().give(block);
  } else {
    c10::free_cpu(block);
  }
}

struct ReusingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto& reporter = c10::profiledCPUMemoryReporter();
    void* block = nullptr;
    try {
      block = take_block(bytes);
    } catch (const c10::Error&) {
      reporter.OutOfMemory(bytes);
      throw;
    }
    c10::DataPtr owner(block, block, &give_block, c10::Device(c10::kCPU));
    reporter.New(block, bytes);  // a listener may refuse by throwing
    return owner;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_block; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

c10::Allocator* reusing_allocator() {
  static auto* const instance = new ReusingAllocator;
  return instance;
}

bool is_wanted() {
  const char* value = std::getenv("MEZZO_ALLOCATOR");
  const std::string_view word = value == nullptr ? "mezzo" : value;
  MEZZO_CHECK_USAGE(word == "mezzo" || word == "system", "MEZZO_ALLOCATOR",
                    "must be mezzo or system, but is \"{}\"", word);
  return word == "mezzo";
}

}  // namespace

CpuAllocator::CpuAllocator() : previous_(c10::GetCPUAllocator()) {
  if (!is_wanted()) return;
  arena();  // now: a child forked while another thread makes it would wait for that thread for ever
  c10::SetCPUAllocator(reusing_allocator(), kPriority);
}

CpuAllocator::~CpuAllocator() { c10::SetCPUAllocator(previous_, kPriority); }

CpuMemory CpuAllocator::memory() { return arena().memory(); }

int64_t CpuAllocator::release_cached() { return arena().release(); }

}  // namespace mezzo
