#include "mezzo/base/cpu_allocator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/serialize.h>

#include "mezzo/base/memory.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = kKiB * kKiB;

at::Tensor tensor_of(int64_t bytes) { return at::empty({bytes}, at::kByte); }

bool is_filled_with(const at::Tensor& tensor, int64_t value) {
  return tensor.eq(value).all().item<bool>();
}

class CpuAllocatorTest : public ::testing::Test {
 protected:
  std::optional<CpuAllocator> allocator_{std::in_place};
};

TEST_F(CpuAllocatorTest, GivesAFreedTensorsMemoryToTheNextOfItsSize) {
  at::Tensor tensor = tensor_of(3 * kMiB);
  const void* data = tensor.data_ptr();
  tensor.reset();
  EXPECT_EQ(tensor_of(3 * kMiB).data_ptr(), data);
}

TEST_F(CpuAllocatorTest, CountsLargeTensorsOnly) {
  const int64_t live = CpuAllocator::memory().live;
  const at::Tensor small = tensor_of(64 * kKiB - 1);
  EXPECT_EQ(CpuAllocator::memory().live, live);
  const at::Tensor large = tensor_of(64 * kKiB);
  EXPECT_EQ(CpuAllocator::memory().live, live + 64 * kKiB);
}

TEST_F(CpuAllocatorTest, AlignsAllToCacheLines) {
  for (const int64_t bytes : {int64_t{1}, 31l, 257l, 64 * kKiB - 1, 64 * kKiB, kMiB + 33}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor_of(bytes).data_ptr()) % 64, 0u) << bytes;
  }
}

TEST_F(CpuAllocatorTest, HasNoMemoryForAnEmptyTensor) {
  const at::Tensor empty = at::empty({0});
  EXPECT_EQ(empty.data_ptr(), nullptr);
  EXPECT_EQ(empty.sum().item<float>(), 0);
}

TEST_F(CpuAllocatorTest, ReportsEachTensorsExactBytes) {
  TensorMemoryMeter meter;
  at::Tensor large = tensor_of(kMiB + 33), small = tensor_of(257);
  EXPECT_EQ(meter.current_bytes(), kMiB + 33 + 257);
  large.reset();
  EXPECT_EQ(meter.current_bytes(), 257);
  EXPECT_EQ(meter.peak_bytes(), kMiB + 33 + 257);
  small.reset();
  EXPECT_EQ(meter.current_bytes(), 0);
}

TEST_F(CpuAllocatorTest, TakesBackWhatAMetersBudgetRefuses) {
  const int64_t live = CpuAllocator::memory().live;
  {
    TensorMemoryMeter meter;
    meter.set_budget(4 * kMiB);
    for (int i = 0; i < 3; ++i) EXPECT_THROW(tensor_of(5 * kMiB), BudgetExceeded);
    EXPECT_EQ(meter.current_bytes(), 0);
    EXPECT_NO_THROW(tensor_of(4 * kMiB));
  }
  EXPECT_EQ(CpuAllocator::memory().live, live);
}

TEST_F(CpuAllocatorTest, SaysHowMuchWasAskedForWhereThatCannotBeHad) {
  struct Listener : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t, size_t, size_t, c10::Device) override {}
    void reportOutOfMemory(int64_t bytes, size_t, size_t, c10::Device) override { missed = bytes; }
    bool memoryProfilingEnabled() const override { return true; }
    int64_t missed = 0;
  };
  const auto listener = std::make_shared<Listener>();
  c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, listener);
  constexpr int64_t kTooMuch = int64_t{1} << 50;
  try {
    tensor_of(kTooMuch);
    FAIL() << "a PiB was had";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("tried to allocate 1125899906842624 bytes"));
  }
  EXPECT_EQ(listener->missed, kTooMuch);
  EXPECT_THROW(c10::GetCPUAllocator()->allocate(std::numeric_limits<size_t>::max()), c10::Error);
  EXPECT_THROW(at::empty({int64_t{1} << 62}, at::kDouble), c10::Error) << "bytes overflow";
}

TEST_F(CpuAllocatorTest, ServesTheRawInterfaceAndCopies) {
  c10::Allocator* allocator = c10::GetCPUAllocator();
  const int64_t live = CpuAllocator::memory().live;
  for (const size_t bytes : {size_t{100}, static_cast<size_t>(kMiB)}) {
    auto* raw = static_cast<char*>(allocator->raw_allocate(bytes));
    std::fill_n(raw, bytes, 'm');
    {
      const c10::DataPtr copy = allocator->clone(raw, bytes);
      EXPECT_TRUE(allocator->is_simple_data_ptr(copy));
      EXPECT_EQ(copy.get_deleter(), allocator->raw_deleter());
      EXPECT_EQ(
          std::count(static_cast<char*>(copy.get()), static_cast<char*>(copy.get()) + bytes, 'm'),
          static_cast<ptrdiff_t>(bytes));
    }
    allocator->raw_deallocate(raw);
  }
  EXPECT_EQ(CpuAllocator::memory().live, live);
}

TEST_F(CpuAllocatorTest, ResizesAcrossTheThresholdAndBack) {
  at::Tensor tensor = at::full({1000}, 7, at::kByte);
  for (const int64_t bytes : {100 * kKiB, 3 * kMiB, int64_t{1000}}) {
    tensor.resize_({bytes});
    EXPECT_TRUE(is_filled_with(tensor.narrow(0, 0, 1000), 7)) << bytes;
  }
}

TEST_F(CpuAllocatorTest, SavesAndLoadsTensors) {
  const at::Tensor saved = at::rand({257, 1031});
  std::stringstream file;
  torch::save(saved, file);
  at::Tensor loaded;
  torch::load(loaded, file);
  EXPECT_TRUE(at::equal(saved, loaded));
}

TEST_F(CpuAllocatorTest, ClonesLazily) {
  const at::Tensor tensor = at::full({kMiB}, 7, at::kByte);
  at::Tensor lazy = at::_lazy_clone(tensor);
  EXPECT_EQ(lazy.const_data_ptr(), tensor.const_data_ptr());
  lazy.fill_(8);
  EXPECT_TRUE(is_filled_with(tensor, 7));
}

TEST_F(CpuAllocatorTest, LeavesMemoryThatIsNotItsOwnToItsOwner) {
  std::vector<unsigned char> bytes(kMiB, 7);
  bool is_freed = false;
  {
    const at::Tensor borrowed = at::from_blob(
        bytes.data(), {kMiB}, [&](void*) { is_freed = true; }, at::kByte);
    EXPECT_TRUE(is_filled_with(borrowed, 7));
  }
  EXPECT_TRUE(is_freed);
}

TEST_F(CpuAllocatorTest, TensorsOutliveItAndComeFromBeforeIt) {
  const int64_t live = CpuAllocator::memory().live;
  at::Tensor ours = at::full({kMiB}, 7, at::kByte);
  allocator_.reset();
  at::Tensor theirs = at::full({kMiB}, 8, at::kByte);
  EXPECT_EQ(CpuAllocator::memory().live, live + kMiB) << "libtorch's is not counted";
  EXPECT_TRUE(is_filled_with(ours, 7));
  ours.resize_({2 * kMiB});  // by the allocator that its storage came from
  EXPECT_EQ(CpuAllocator::memory().live, live + 2 * kMiB);
  ours.reset();
  EXPECT_EQ(CpuAllocator::memory().live, live);
  allocator_.emplace();
  EXPECT_TRUE(is_filled_with(theirs, 8));
  theirs.reset();
  EXPECT_EQ(CpuAllocator::memory().live, live);
}

TEST_F(CpuAllocatorTest, Nests) {
  c10::Allocator* ours = c10::GetCPUAllocator();
  { const CpuAllocator inner; }
  EXPECT_EQ(c10::GetCPUAllocator(), ours);
  allocator_.reset();
  EXPECT_EQ(c10::GetCPUAllocator(), c10::GetDefaultCPUAllocator());
}

// In a process of its own, since a process reserves its addresses once.
TEST(CpuAllocator, AsksForNoMoreAddressesThanThereAre) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto serve_below_a_vast_limit = [] {
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = std::min(limit.rlim_max, rlim_t{1} << 62);
    ::setrlimit(RLIMIT_AS, &limit);
    const CpuAllocator allocator;
    const at::Tensor tensor = tensor_of(kMiB);
    ::_exit(CpuAllocator::memory().live == kMiB ? 0 : 1);
  };
  EXPECT_EXIT(serve_below_a_vast_limit(), ::testing::ExitedWithCode(0), "");
}

TEST(CpuAllocator, IsChosenByAnEnvironmentVariable) {
  ::setenv("MEZZO_ALLOCATOR", "system", 1);
  {
    const CpuAllocator allocator;
    EXPECT_EQ(c10::GetCPUAllocator(), c10::GetDefaultCPUAllocator());
  }
  ::setenv("MEZZO_ALLOCATOR", "sistem", 1);
  EXPECT_THROW_WITH(CpuAllocator(), "must be mezzo or system, but is \"sistem\"");
  ::setenv("MEZZO_ALLOCATOR", "mezzo", 1);
  {
    const CpuAllocator allocator;
    EXPECT_NE(c10::GetCPUAllocator(), c10::GetDefaultCPUAllocator());
  }
  ::unsetenv("MEZZO_ALLOCATOR");
}

TEST_F(CpuAllocatorTest, ReleasesWhatIsCached) {
  CpuAllocator::release_cached();
  tensor_of(64 * kMiB);
  EXPECT_GE(CpuAllocator::memory().cached, 64 * kMiB);
  EXPECT_GE(CpuAllocator::release_cached(), 64 * kMiB);
  EXPECT_LT(CpuAllocator::memory().cached, 64 * kMiB);
}

// Each thread hands on what it made to the next, which looks at it and frees it.
TEST_F(CpuAllocatorTest, ServesThreadsThatFreeEachOthersTensors) {
  constexpr int kThreads = 4, kRounds = 200;
  const int64_t live = CpuAllocator::memory().live;
  std::array<std::mutex, kThreads> mutexes;
  std::array<at::Tensor, kThreads> passed;
  std::atomic<int> wrong = 0;
  const auto work = [&](int me) {
    const at::NoGradGuard no_grad;
    for (int round = 0; round < kRounds; ++round) {
      at::Tensor mine = at::full({(1 + (round * 7 + me * 13) % 29) * 16 * kKiB}, me, at::kByte);
      std::lock_guard lock(mutexes[me]);
      std::swap(passed[me], mine);
      const int next = (me + 1) % kThreads;
      at::Tensor theirs;
      if (next > me) {  // locks in one order only
        std::lock_guard other(mutexes[next]);
        std::swap(theirs, passed[next]);
      }
      if (theirs.defined() && !is_filled_with(theirs, next)) ++wrong;
      if (mine.defined() && !is_filled_with(mine, me)) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  passed = {};
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(CpuAllocator::memory().live, live);
}

TEST_F(CpuAllocatorTest, WorksInAChildThatWasForkedWhileOthersAllocate) {
  tensor_of(kMiB);  // libtorch's own first time is not safe to fork in
  std::atomic<bool> stop = false;
  std::thread busy([&] {
    while (!stop) tensor_of(kMiB);
  });
  int failures = 0;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(10);  // rather than hang
      ::_exit(tensor_of(kMiB).defined() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    failures += status != 0;
  }
  stop = true;
  busy.join();
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace mezzo
