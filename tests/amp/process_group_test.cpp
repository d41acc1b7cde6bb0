#include "mezzo/amp/process_group.h"

#include <barrier>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/optim/sgd.h>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/base/check.h"
#include "tests/amp/fused_sgd.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr int kRanks = 2;

// Where the threads of one test meet.
struct Meeting {
  std::barrier<> barrier{kRanks};
  std::vector<at::Tensor> shared = std::vector<at::Tensor>(kRanks);
};

class DoneWork : public c10d::Work {
 public:
  bool isCompleted() override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
};

/// All-reduce between threads of this process.
class ThreadBackend : public c10d::Backend {
 public:
  ThreadBackend(int rank, std::shared_ptr<Meeting> meeting)
      : Backend(rank, kRanks), meeting_(std::move(meeting)) {}

  const std::string getBackendName() const override { return "threads"; }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    meeting_->shared[getRank()] = tensors.at(0).clone();
    meeting_->barrier.arrive_and_wait();
    const at::Tensor all = at::stack(meeting_->shared);
    tensors[0].copy_(options.reduceOp == c10d::ReduceOp::MAX ? all.amax(0) : all.sum(0));
    meeting_->barrier.arrive_and_wait();
    return c10::make_intrusive<DoneWork>();
  }

 private:
  std::shared_ptr<Meeting> meeting_;
};

c10::intrusive_ptr<c10d::ProcessGroup> group_of(int rank, const std::shared_ptr<Meeting>& meeting) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, kRanks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                    c10::make_intrusive<ThreadBackend>(rank, meeting));
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  return group;
}

void on_both_ranks(const std::function<void(int, c10::intrusive_ptr<c10d::ProcessGroup>)>& body) {
  const auto meeting = std::make_shared<Meeting>();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] { body(rank, group_of(rank, meeting)); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(MaxOver, LeavesTheLargestOfAllRanks) {
  on_both_ranks([](int rank, const auto& group) {
    at::Tensor value = at::full({}, rank == 0 ? 0.25 : 3.0);
    max_over(group)(value);
    EXPECT_EQ(value.item<float>(), 3.0f);
  });
}

TEST(MaxOver, RefusesNoGroup) {
  EXPECT_THROW_WITH(max_over(c10::intrusive_ptr<c10d::ProcessGroup>()), "must not be null");
}

template <class Optimizer>
void expect_all_ranks_skip_together() {
  on_both_ranks([](int rank, const auto& group) {
    const at::Tensor parameter = at::ones({2}).requires_grad_();
    Optimizer optimizer({parameter}, 0.125);
    GradScaler scaler(at::kCPU, {.init_scale = 8.0, .reduce_found_inf = max_over(group)});
    for (const int overflowing : {1, -1, 0}) {  // a rank; -1: none
      scaler.scale(parameter.sum()).backward();
      if (rank == overflowing) parameter.mutable_grad()[0] = INFINITY;
      EXPECT_EQ(scaler.step(optimizer).stepped(), overflowing == -1) << rank;
      scaler.update();
      optimizer.zero_grad();
    }
    EXPECT_EQ(scaler.get_scale(), 2.0) << rank;
    EXPECT_EQ(scaler.counters().skips, 2) << rank;
    EXPECT_EQ(parameter[0].template item<float>(), 1.0f - 0.125f) << rank;  // one step
  });
}

TEST(GradScalerOverRanks, AllRanksSkipIfOneOverflows) {
  expect_all_ranks_skip_together<torch::optim::SGD>();
  expect_all_ranks_skip_together<testing::FusedSgd>();
}

template <class Optimizer>
void expect_rank_without_gradients_takes_part() {
  on_both_ranks([](int rank, const auto& group) {
    const at::Tensor parameter = at::ones({2}).requires_grad_();
    Optimizer optimizer({parameter}, 0.125);
    GradScaler scaler(at::kCPU, {.init_scale = 8.0, .reduce_found_inf = max_over(group)});
    scaler.scale(at::ones({}));
    if (rank == 0) parameter.mutable_grad() = at::full({2}, INFINITY);
    EXPECT_FALSE(scaler.step(optimizer).stepped()) << rank;
    EXPECT_TRUE(scaler.found_inf(optimizer)) << rank;
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 4.0) << rank;
  });
}

TEST(GradScalerOverRanks, ARankWithoutGradientsTakesPart) {
  expect_rank_without_gradients_takes_part<torch::optim::SGD>();
  expect_rank_without_gradients_takes_part<testing::FusedSgd>();
}

TEST(GradScalerOverRanks, WhateverAReductionLeavesIsBroughtToZeroOrOne) {
  for (const float left : {2.0f, -1.0f, NAN, 0.5f}) {
    const at::Tensor parameter = at::ones({2}).requires_grad_();
    testing::FusedSgd optimizer({parameter}, 0.125);
    GradScaler scaler(at::kCPU, {.init_scale = 8.0, .reduce_found_inf = [left](at::Tensor& found) {
                                   found.fill_(left);
                                 }});
    scaler.scale(parameter.sum()).backward();
    EXPECT_FALSE(scaler.step(optimizer).stepped()) << left;
    EXPECT_EQ(parameter[0].item<float>(), 1.0f) << left;
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 4.0) << left;
  }
}

}  // namespace
}  // namespace mezzo
