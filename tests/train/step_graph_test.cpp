#include "mezzo/train/step_graph.h"

#include <stdexcept>

#include "tests/testing.h"

namespace mezzo::train {
namespace {

/// A device that counts: work while it is recorded, launches, recordings that are alive.
struct FakeDevice {
  bool is_recording = false;
  int records = 0, launches = 0, alive = 0, computed = 0, recorded = 0;
  std::string refuses;

  class Recorded : public Recording {
   public:
    explicit Recorded(FakeDevice& device) : device_(device) { ++device_.alive; }
    ~Recorded() override { --device_.alive; }
    void launch() override { ++device_.launches; }

   private:
    FakeDevice& device_;
  };

  std::function<void()> work() {
    return [this] { ++(is_recording ? recorded : computed); };
  }
  StepGraph::Record record() {
    return [this](const std::function<void()>& work) -> std::unique_ptr<Recording> {
      ++records;
      if (!refuses.empty()) throw std::runtime_error(refuses);
      is_recording = true;
      work();
      is_recording = false;
      return std::make_unique<Recorded>(*this);
    };
  }
};

class StepGraphTest : public ::testing::Test {
 protected:
  void run(const std::string& shape, int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) graph.run(shape, device.work());
  }
  FakeDevice device;
  StepGraph graph{device.record()};
};

TEST_F(StepGraphTest, WarmsUpThenRecordsOnceAndLaunchesEachStep) {
  run("8x256", StepGraph::kWarmUpSteps);
  EXPECT_EQ(device.computed, StepGraph::kWarmUpSteps);
  EXPECT_FALSE(graph.is_recorded());
  run("8x256", 5);
  EXPECT_TRUE(graph.is_recorded());
  EXPECT_EQ(device.records, 1);
  EXPECT_EQ(device.recorded, 1);
  EXPECT_EQ(device.launches, 5);  // the recorded step too: recording computes nothing
  EXPECT_EQ(device.computed, StepGraph::kWarmUpSteps);
}

TEST_F(StepGraphTest, AnotherShapeIsWarmedUpAndRecordedAnewWithTheOldRecordingGone) {
  run("8x256", StepGraph::kWarmUpSteps + 1);
  run("4x256", 1);
  EXPECT_EQ(device.alive, 0);
  EXPECT_FALSE(graph.is_recorded());
  run("4x256", StepGraph::kWarmUpSteps);
  EXPECT_EQ(device.records, 2);
  EXPECT_EQ(device.alive, 1);
  EXPECT_EQ(device.launches, 2);
}

TEST_F(StepGraphTest, ADroppedRecordingIsGoneAndTheNextStepIsRecordedAgain) {
  run("8x256", StepGraph::kWarmUpSteps + 1);
  graph.drop();
  EXPECT_EQ(device.alive, 0);
  EXPECT_FALSE(graph.is_recorded());
  run("8x256", 1);
  EXPECT_EQ(device.records, 2);
  EXPECT_EQ(device.launches, 2);
  EXPECT_EQ(device.computed, StepGraph::kWarmUpSteps);
}

TEST_F(StepGraphTest, WhatCannotBeRecordedRunsOpByOpAndSaysWhy) {
  device.refuses = "the optimizer reads its step on the host";
  run("8x256", StepGraph::kWarmUpSteps + 4);
  EXPECT_EQ(device.records, 1);  // not tried at each step
  EXPECT_EQ(device.computed, StepGraph::kWarmUpSteps + 4);
  EXPECT_EQ(graph.refusal(), device.refuses);
  EXPECT_FALSE(graph.is_recorded());
}

TEST_F(StepGraphTest, AFailingStepFailsItself) {
  EXPECT_THROW(graph.run("8x256", [] { throw std::runtime_error("out of memory"); }),
               std::runtime_error);
  EXPECT_TRUE(graph.refusal().empty());
  run("8x256", StepGraph::kWarmUpSteps + 1);
  EXPECT_TRUE(graph.is_recorded());
}

}  // namespace
}  // namespace mezzo::train
