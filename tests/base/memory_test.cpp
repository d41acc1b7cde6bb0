#include "mezzo/base/memory.h"

#include <memory>
#include <thread>

#include <ATen/Functions.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "mezzo/base/check.h"
#include "mezzo/base/cpu_allocator.h"
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

TEST(TensorMemoryMeter, WhatIsDoneAsideIsNoPartOfThePeak) {
  TensorMemoryMeter meter;
  const at::Tensor kept = at::empty({1000}, at::kByte);
  const int64_t before = meter.peak_bytes();
  {
    const TensorMemoryMeter::Aside aside(meter);
    at::empty({100'000}, at::kByte);
  }
  EXPECT_EQ(meter.peak_bytes(), before);
  at::empty({10'000}, at::kByte);
  EXPECT_GE(meter.peak_bytes(), before + 10'000) << "and no longer";
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

int64_t sum_of(const BytesByKind& kinds) {
  return kinds.weights + kinds.gradients + kinds.optimizer_state + kinds.activations +
         kinds.temporaries;
}

// A step by hand, all of it in pieces of a MiB: 1 weight, 2 of state, 3 that forward leaves for
// backward, 1 gradient.
TEST(TensorMemoryMeter, TellsTheKindsOfAStepsPeakApart) {
  TensorMemoryMeter meter;
  const std::vector<at::Tensor> weights = {tensor_of(kMiB)};
  const std::vector<at::Tensor> state = {tensor_of(kMiB), tensor_of(kMiB)};
  meter.begin_forward();
  std::vector<at::Tensor> saved = {tensor_of(kMiB), tensor_of(kMiB)};
  tensor_of(kMiB);  // gone before forward ends
  saved.push_back(tensor_of(kMiB));
  meter.end_forward();
  std::vector<at::Tensor> gradients = {tensor_of(kMiB)};
  tensor_of(5 * kMiB);  // the peak: 7 MiB that stay and these
  saved.clear();
  const BytesByKind kinds = meter.peak_by_kind(weights, gradients, state);
  EXPECT_EQ(kinds.weights, kMiB);
  EXPECT_EQ(kinds.optimizer_state, 2 * kMiB);
  EXPECT_EQ(kinds.activations, 3 * kMiB);
  EXPECT_EQ(kinds.gradients, kMiB);
  EXPECT_EQ(kinds.temporaries, 5 * kMiB);
  EXPECT_EQ(sum_of(kinds), meter.peak_bytes());
}

TEST(TensorMemoryMeter, APeakInsideForwardHasNoGradientsAndOnlyWhatForwardKept) {
  TensorMemoryMeter meter;
  meter.begin_forward();
  at::Tensor kept = tensor_of(kMiB);
  tensor_of(8 * kMiB);  // the peak
  at::Tensor kept_later = tensor_of(kMiB);
  meter.end_forward();
  const std::vector<at::Tensor> gradients = {tensor_of(kMiB)};
  const BytesByKind kinds = meter.peak_by_kind({}, gradients, {});
  EXPECT_EQ(kinds.activations, kMiB) << "kept_later came after the peak";
  EXPECT_EQ(kinds.gradients, 0);
  EXPECT_EQ(kinds.temporaries, 8 * kMiB);
}

TEST(TensorMemoryMeter, HoldsABudget) {
  const CpuAllocator allocator;  // libtorch's own leaks what a meter refuses
  TensorMemoryMeter meter;
  meter.set_budget(4 * kMiB);
  const at::Tensor a = tensor_of(3 * kMiB);
  EXPECT_THROW(tensor_of(2 * kMiB), BudgetExceeded);
  EXPECT_NO_THROW(tensor_of(kMiB));
}

TEST(TensorMemoryMeter, OfASharedStorageCountsOnce) {
  TensorMemoryMeter meter;
  const at::Tensor whole = tensor_of(2 * kMiB);
  const BytesByKind kinds = meter.peak_by_kind({whole, whole.view({2, -1}), at::Tensor()}, {}, {});
  EXPECT_EQ(kinds.weights, 2 * kMiB);
  EXPECT_EQ(kinds.temporaries, 0);
}

TEST(TensorMemoryMeter, SaysWhoOwnsThePeakOfARealStep) {
  TensorMemoryMeter meter;
  const at::Tensor w = at::ones({512, 512}).requires_grad_();  // 1 MiB
  const at::Tensor x = at::ones({512, 512});
  meter.begin_forward();
  at::Tensor loss = x.mm(w).sigmoid().mm(w).sum();  // keeps x, w, sigmoid's result
  meter.end_forward();
  loss.backward();
  const BytesByKind kinds = meter.peak_by_kind({w}, {w.grad()}, {});
  EXPECT_EQ(kinds.weights, kMiB);
  EXPECT_GE(kinds.activations, kMiB) << "sigmoid's result";
  EXPECT_LE(kinds.activations, 3 * kMiB);
  EXPECT_EQ(sum_of(kinds), meter.peak_bytes());
}

// The only one here that is on a GPU: nothing has initialised CUDA before.
TEST(TensorMemoryMeterOnGpu, MayBeTheFirstThatAsksForTheGpu) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  TensorMemoryMeter meter(at::kCUDA);
  EXPECT_EQ(meter.current_bytes(), 0);
  const at::Tensor a = at::empty({kMiB}, at::TensorOptions(at::kByte).device(at::kCUDA));
  EXPECT_EQ(meter.current_bytes(), kMiB);
  EXPECT_EQ(meter.peak_bytes(), kMiB);
  meter.reset_peak();
  EXPECT_EQ(meter.peak_bytes(), kMiB);
}

}  // namespace
}  // namespace mezzo
