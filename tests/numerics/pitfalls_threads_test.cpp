// Ops on several threads at once, on another thread than their forward pass, and across the
// beginning and the end of a recording.

#include <atomic>
#include <barrier>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/range_probe.h"
#include "mezzo/numerics/recorder.h"
#include "mezzo/numerics/watch.h"
#include "tests/numerics/watched.h"

namespace mezzo::numerics {
namespace {

void on_a_thread(const std::function<void()>& run) { std::thread(run).join(); }

// Three nodes, numbered from 0 on a fresh thread.
void make_nodes(const std::string& path) {
  const Scope scope(path);
  at::ones({4}).set_requires_grad(true).cos().cos().cos();
}

TEST(PitfallsOfThreads, ANodeIsKnownByItsThreadAndNotByItsNumberAlone) {
  const Finding finding = first_finding([] {
    at::Tensor loss;
    on_a_thread([&] {
      const Scope scope("norm");
      loss = at::zeros({4}).set_requires_grad(true).sqrt().sum();
    });
    on_a_thread([&] {
      make_nodes("other");
      loss.backward();
    });
  });
  EXPECT_EQ(finding.module, "norm");
  EXPECT_EQ(finding.forward_op, "aten::sqrt");
}

TEST(PitfallsOfThreads, WhatACheckpointComputesAgainOnAnotherThreadIsOfItsOwnPart) {
  const Finding finding = first_finding([] {
    at::Tensor y;
    on_a_thread([&] {
      const Scope scope("blocks.1");
      const auto part = [](const std::vector<at::Tensor>& x) -> std::vector<at::Tensor> {
        const Scope norm("norm");
        return {x[0].sqrt()};
      };
      y = checkpoint(part, {at::zeros({4}).set_requires_grad(true)})[0];
    });
    on_a_thread([&] {
      make_nodes("other");
      y.sum().backward();
    });
  });
  EXPECT_EQ(headline(finding), "aten::div [fp32], backward of blocks.1.norm: division by zero");
  EXPECT_EQ(finding.forward_op, "aten::sqrt");
}

std::map<std::string, size_t> records_by_module(const Trace& trace) {
  std::map<std::string, size_t> count;
  for (const OpRecord& record : trace.records) ++count[record.module];
  return count;
}

TEST(PitfallsOfThreads, ThreadsAtOnceAreToldApart) {
  constexpr size_t kSteps = 50;
  size_t one;
  {
    Recorder recorder;
    step("alone", kFits);
    recorder.finish();
    one = recorder.trace().records.size();
  }
  Recorder recorder;
  std::barrier<> together(2);
  const auto run = [&](const std::string& scope) {
    together.arrive_and_wait();
    for (size_t i = 0; i < kSteps; ++i) step(scope, kFits);
  };
  std::thread other(run, "other");
  run("here");
  other.join();
  recorder.finish();
  const Trace& trace = recorder.trace();
  EXPECT_EQ(records_by_module(trace),
            (std::map<std::string, size_t>{{"here", kSteps * one}, {"other", kSteps * one}}));
  for (const OpRecord& record : trace.records) {
    if (record.parent < 0) continue;
    ASSERT_EQ(record.module, trace.records[static_cast<size_t>(record.parent)].module);
  }
}

/// An op that another thread is in until it is let out.
struct Within {
  std::binary_semaphore is_entered{0}, may_leave{0};
};
Within* within = nullptr;

at::Tensor wait_within(const at::Tensor& x) {
  within->is_entered.release();
  within->may_leave.acquire();
  const at::DisableRecordFunctionGuard no_ops_within;
  return x / 0;
}

TORCH_LIBRARY(mezzo_pitfalls, library) { library.def("wait(Tensor x) -> Tensor", &wait_within); }

/// A thread that is in an op as long as this lives.
class OtherThread {
 public:
  OtherThread() {
    within = &place_;
    thread_ = std::thread([] {
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mezzo_pitfalls::wait", "")
          .typed<at::Tensor(const at::Tensor&)>()
          .call(at::ones({4}));
    });
    place_.is_entered.acquire();
  }
  ~OtherThread() {
    place_.may_leave.release();
    thread_.join();
  }
  OtherThread(const OtherThread&) = delete;
  OtherThread& operator=(const OtherThread&) = delete;

 private:
  Within place_;
  std::thread thread_;
};

TEST(PitfallsOfThreads, AStepIsForgottenWhileAnotherThreadIsStillWithinAnOpOfIt) {
  Watch watch;
  {
    const OtherThread other;
    for (int i = 0; i < 3; ++i) step("act", kFits);
  }
  step("act", kOverflows);
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(headline(diagnosis.findings[0]), "aten::exp [fp16], forward of act: overflow");
}

TEST(PitfallsOfThreads, AnOpThatBeganUnderOneWatchEndsUnderTheNext) {
  auto first = std::make_unique<Watch>();
  std::unique_ptr<Watch> second;
  {
    const OtherThread other;
    first = nullptr;
    second = std::make_unique<Watch>();
  }
  step("act", kOverflows);
  EXPECT_EQ(second->report().findings.size(), 1);
}

TEST(PitfallsOfThreads, AWatchBeginsAndEndsBesideThreadsThatCompute) {
  std::atomic<bool> is_over = false;
  std::thread other([&] {
    while (!is_over) at::ones({4}).mul(2).sum();
  });
  for (int i = 0; i < 50; ++i)
    EXPECT_EQ(first_finding([] { step("act", kOverflows); }).op, "aten::exp");
  is_over = true;
  other.join();
}

// Its kernel calls ops on the threads of its loop, which wait for no one who waits for them.
TEST(PitfallsOfThreads, AnOpThatCallsOpsOnThreadsOfItsOwnIsRunAgainToBeJudged) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const Diagnosis diagnosis = watched([] {
    const Scope scope("up");
    const at::Tensor x = at::full({4, 3, 9, 9}, 1e20).set_requires_grad(true);
    at::conv_transpose2d(x, at::full({3, 5, 3, 3}, 1e20)).sum().backward();
  });
  at::set_num_threads(threads);
  ASSERT_FALSE(diagnosis.findings.empty());
  EXPECT_EQ(diagnosis.findings[0].op, "aten::conv_transpose2d");
  EXPECT_EQ(diagnosis.findings[0].cause, Cause::kOverflow) << to_text(diagnosis);
}

// Autograd's threads, and whoever else starts them so, take over what a thread's ops go through.
TEST(PitfallsOfThreads, ARemedyIsTriedOnTheThreadsOfTheStepToo) {
  const at::Tensor w = half({4, 4}, kOverflows).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&w] {
    const at::ThreadLocalState state;
    at::Tensor p;
    on_a_thread([&] {
      const at::ThreadLocalStateGuard guard(state);
      const Scope scope("act");
      const at::Tensor h = at::matmul(half({2, 4}, 1), w).exp();
      p = h / h.sum();
    });
    const at::Tensor loss = p.to(at::kFloat).pow(2).sum();
    loss.backward();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  ASSERT_FALSE(diagnosis.remedies.empty()) << to_text(diagnosis);
  EXPECT_TRUE(diagnosis.remedies.front().is_proved) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.remedies.front().change, "aten::exp in act in fp32");
}

/// A thread that computes all the time, with pauses: not so much, on a busy machine, that a watch
/// forgets what the other threads do.
class BusyThread {
 public:
  ~BusyThread() {
    is_over_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> is_over_ = false;
  std::thread thread_{[this] {
    while (!is_over_) {
      at::ones({4}).mul(2).sum();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }};
};

TEST(PitfallsOfThreads, ADiagnosisFollowsTheThreadsOfItsStepAlone) {
  const at::Tensor w = half({4, 4}, kOverflows).set_requires_grad(true);
  const BusyThread busy;
  const Diagnosis diagnosis = diagnose({[&w] {
                                          at::Tensor h;
                                          {
                                            const Scope scope("act");
                                            h = at::matmul(half({2, 4}, 1), w).exp();
                                          }
                                          const at::Tensor loss =
                                              (h / h.sum()).to(at::kFloat).sum();
                                          loss.backward();
                                          return loss;
                                        },
                                        {{"w", w}},
                                        {},
                                        {}});
  EXPECT_TRUE(diagnosis.is_reproduced.value()) << diagnosis.not_reproduced;
  ASSERT_FALSE(diagnosis.remedies.empty()) << to_text(diagnosis);
  EXPECT_TRUE(diagnosis.remedies.front().is_proved) << to_text(diagnosis);
}

// Ops on the way, so that others come between.
TEST(PitfallsOfThreads, AWatchEndsNoStepWithinABackwardPass) {
  const BusyThread busy;
  for (int i = 0; i < 5; ++i) {
    const Finding finding = first_finding([] {
      at::Tensor y = at::zeros({64, 64}).set_requires_grad(true).sqrt();
      for (int k = 0; k < 30; ++k) y = at::matmul(y, at::full({64, 64}, 1.0 / 64));
      y.sum().backward();
    });
    EXPECT_EQ(finding.node, "SqrtBackward0");
    EXPECT_EQ(finding.forward_op, "aten::sqrt");
  }
}

TEST(PitfallsOfThreads, CallbacksAreAddedOnceHoweverOftenTheyAreUsed) {
  const auto records = [] {
    Recorder recorder;
    at::ones({4}).mul(2);
    recorder.finish();
    return recorder.trace().records.size();
  };
  const auto values = [] {
    RangeProbe probe;
    const Scope scope("part");
    at::ones({4}).mul(2);
    return probe.take().at(0).activations.magnitudes.values;
  };
  const size_t first_records = records();
  const auto first_values = values();
  for (int i = 0; i < 20; ++i) {
    { const Watch watch; }
    const RangeProbe probe;
  }
  EXPECT_EQ(records(), first_records);
  EXPECT_EQ(values(), first_values);
  EXPECT_FALSE(at::hasCallbacks());
}

}  // namespace
}  // namespace mezzo::numerics
