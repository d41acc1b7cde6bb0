#include "mezzo/base/memory.h"

#include <memory>
#include <thread>

#include <ATen/Functions.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

at::Tensor tensor_of(int64_t bytes) { return at::empty({bytes}, at::kByte); }

TEST(PeakRss, GrowsByMemoryThatIsTouched) {
  const int64_t before = peak_rss_bytes();
  // More than what the process may have had resident before, all of it written to.
  at::Tensor held = at::ones({before + 64 * kMiB}, at::kByte);
  EXPECT_GE(peak_rss_bytes(), before + 32 * kMiB);
  EXPECT_LE(peak_rss_bytes(), 3 * before + 256 * kMiB);
  held.reset();
  EXPECT_GE(peak_rss_bytes(), before + 32 * kMiB) << "a peak does not fall";
}

TEST(TensorMemoryMeter, CountsWhatIsLiveAndItsPeakExactly) {
  TensorMemoryMeter meter;
  EXPECT_EQ(meter.current_bytes(), 0);
  at::Tensor a = tensor_of(3 * kMiB);
  {
    at::Tensor b = tensor_of(2 * kMiB);
    EXPECT_EQ(meter.current_bytes(), 5 * kMiB);
  }
  EXPECT_EQ(meter.current_bytes(), 3 * kMiB);
  EXPECT_EQ(meter.peak_bytes(), 5 * kMiB);
  a.reset();
  EXPECT_EQ(meter.current_bytes(), 0);
  EXPECT_EQ(meter.peak_bytes(), 5 * kMiB);
}

TEST(TensorMemoryMeter, ResetPeakStartsFromWhatIsLive) {
  TensorMemoryMeter meter;
  at::Tensor a = tensor_of(kMiB);
  tensor_of(4 * kMiB);
  meter.reset_peak();
  EXPECT_EQ(meter.peak_bytes(), kMiB);
  tensor_of(2 * kMiB);
  EXPECT_EQ(meter.peak_bytes(), 3 * kMiB);
}

TEST(TensorMemoryMeter, SeesTheGradientsOfABackwardPass) {
  TensorMemoryMeter meter;
  at::Tensor x = at::ones({kMiB / 4}).requires_grad_();
  (x * x).sum().backward();
  EXPECT_GE(meter.current_bytes(), 2 * kMiB) << "x and its gradient";
  EXPECT_LE(meter.current_bytes(), 2 * kMiB + 4096);
  EXPECT_GE(meter.peak_bytes(), 3 * kMiB);
}

TEST(TensorMemoryMeter, IgnoresATensorFromBeforeIt) {
  at::Tensor before = tensor_of(kMiB);
  TensorMemoryMeter meter;
  before.reset();
  EXPECT_EQ(meter.current_bytes(), 0);
}

TEST(TensorMemoryMeter, IsNotFooledByABlockFreedWhileNobodyListened) {
  at::Tensor held;
  {
    TensorMemoryMeter first;
    held = tensor_of(kMiB);
  }
  held.reset();  // unseen: the allocator's own table still has this address
  held = tensor_of(kMiB);
  TensorMemoryMeter second;
  held.reset();
  EXPECT_EQ(second.current_bytes(), 0);
}

TEST(TensorMemoryMeter, OuterMeterSeesWhatTheInnerSees) {
  TensorMemoryMeter outer;
  at::Tensor a;
  {
    TensorMemoryMeter inner;
    a = tensor_of(kMiB);
    EXPECT_EQ(inner.current_bytes(), kMiB);
  }
  EXPECT_EQ(outer.current_bytes(), kMiB);
}

TEST(TensorMemoryMeter, CountsNothingOfAnotherThread) {
  TensorMemoryMeter meter;
  std::thread([] { tensor_of(kMiB); }).join();
  EXPECT_EQ(meter.peak_bytes(), 0);
}

TEST(TensorMemoryMeter, RefusesToPushAsideAnotherListener) {
  struct Listener : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t, size_t, size_t, c10::Device) override {}
    bool memoryProfilingEnabled() const override { return true; }
  };
  c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, std::make_shared<Listener>());
  EXPECT_THROW_WITH(TensorMemoryMeter(), "profiler is off");
}

}  // namespace
}  // namespace mezzo
