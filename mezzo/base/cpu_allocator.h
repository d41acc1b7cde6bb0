#pragma once

#include <cstdint>

#include "mezzo/base/cpu_memory.h"

namespace c10 {
struct Allocator;
}

namespace mezzo {

/// While one of these lives, large CPU tensors (64 KiB and more) of the whole process are made in
/// memory that is reused, on huge pages where the system has them. One line turns it on for any
/// program that uses libtorch:
///
///     int main() {
///       const mezzo::CpuAllocator allocator;
///
/// libtorch gives each large tensor's memory back to the system, which fills it with zeros for the
/// next: a cast into fresh memory runs at 9 GB/s, into reused memory at 66 GB/s, and a training
/// step on a CPU is full of large temporaries.
///
/// Memory: a tensor is rounded up to 4 KiB. Freed memory is kept, but only as much that all of it
/// together stays within 17/16 of the most bytes that were ever in use at once, and what shares a
/// page of 2 MiB with a live tensor. Smaller tensors are libtorch's as before. Both are reported to
/// torch's profiler (and so to TensorMemoryMeter) with their exact sizes, as libtorch does.
///
/// Tensors may outlive the object and come from before it: each is freed by what made it. Where
/// memory cannot be had, libtorch's allocator is asked, and throws what it throws (c10::Error,
/// "you tried to allocate N bytes"). Safe with threads and fork().
///
/// The environment variable MEZZO_ALLOCATOR=system keeps libtorch's own allocator.
///
/// Objects nest; destroy them in reverse order. Make and destroy them where no other thread makes
/// tensors.
class CpuAllocator {
 public:
  /// Throws UsageError if MEZZO_ALLOCATOR is set to anything but mezzo or system.
  [[nodiscard]] CpuAllocator();
  /// The allocator from before serves again.
  ~CpuAllocator();
  CpuAllocator(const CpuAllocator&) = delete;
  CpuAllocator& operator=(const CpuAllocator&) = delete;

  /// Of the process, whoever lives.
  static CpuMemory memory();
  /// Gives what is cached back to the system, but for 2 MiB pages with a live byte; the peaks and
  /// with them the bound on what is kept begin anew. Returns the bytes given back.
  static int64_t release_cached();

 private:
  c10::Allocator* previous_;
};

}  // namespace mezzo
