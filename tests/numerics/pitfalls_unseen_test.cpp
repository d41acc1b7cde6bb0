// Numbers that no op seen by a recorder makes: Mezzo's own kernels, redispatched ops, and what
// comes from other ranks.

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/RedispatchFunctions.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "mezzo/base/scope.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/fused_linear/fused_accumulation.h"
#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/rope/rope.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/recorder.h"
#include "tests/numerics/watched.h"

namespace mezzo::numerics {
namespace {

/// One call of each op of Mezzo's, through the function that programs call.
std::map<std::string, std::function<void()>> calls_of_ops() {
  const auto weight = [](int64_t out, int64_t in) {
    return at::ones({out, in}).set_requires_grad(true);
  };
  const auto recipe = [] { return std::make_shared<kernels::Fp8Recipe>(kernels::Fp8Scaling{}); };
  const auto fp8 = [=] {
    kernels::residual_norm_fp8_linear(at::ones({1, 16, 16}), {}, at::ones({16}), {}, weight(16, 16),
                                      {}, 1e-5, false, recipe());
  };
  return {
      {"mezzo::add_mm_",
       [=] {
         const kernels::FusedAccumulation accumulation;
         EXPECT_TRUE(kernels::accumulate_fused(weight(4, 8), at::ones({2, 4}), at::ones({2, 8})));
       }},
      {"mezzo::attention_linear",
       [=] {
         kernels::attention_linear(at::ones({1, 2, 24}), 2, weight(8, 8), {});
       }},
      {"mezzo::fp8_cast", fp8},
      {"mezzo::gelu_linear",
       [=] {
         kernels::gelu_linear(at::ones({2, 8}), weight(4, 8), {}, false);
       }},
      {"mezzo::linear_cross_entropy",
       [=] {
         kernels::linear_cross_entropy(at::ones({2, 8}), weight(4, 8), at::zeros({2}, at::kLong));
       }},
      {"mezzo::residual_norm", fp8},
      {"mezzo::residual_norm_linear",
       [=] {
         kernels::residual_norm_linear(at::ones({1, 2, 8}), {}, at::ones({8}), {}, weight(4, 8), {},
                                       1e-5, false);
       }},
      {"mezzo::residual_rms_norm",
       [=] {
         kernels::residual_rms_norm_fp8_linear(at::ones({1, 16, 16}), {}, at::ones({16}),
                                               weight(16, 16), {}, 1e-5, false, recipe());
       }},
      {"mezzo::residual_rms_norm_linear",
       [=] {
         kernels::residual_rms_norm_linear(at::ones({1, 2, 8}), {}, at::ones({8}), weight(4, 8), {},
                                           1e-5, false);
       }},
      {"mezzo::rope",
       [=] {
         kernels::rope(at::ones({1, 2, 2, 4}), kernels::rope_table(2, 4));
       }},
      {"mezzo::swiglu",
       [=] {
         kernels::swiglu_fp8_linear(at::ones({16, 32}), weight(16, 16), {}, false, recipe());
       }},
      {"mezzo::swiglu_linear",
       [=] {
         kernels::swiglu_linear(at::ones({2, 16}), weight(4, 8), {}, false);
       }},
  };
}

TEST(PitfallsOfUnseenCode, EachKernelOfMezzoForModelsIsAnOpThatIsSeen) {
  kernels::register_ops();
  std::set<std::string> registered, called;
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.name.starts_with("mezzo::")) registered.insert(op.name);
  }
  for (const auto& [name, call] : calls_of_ops()) {
    called.insert(name);
    Recorder recorder;
    call();
    recorder.finish();
    bool is_seen = false;
    for (const OpRecord& record : recorder.trace().records) {
      if (record.op == nullptr || record.op->name != name || record.parent >= 0) continue;
      is_seen = !record.inputs.empty() && !record.outputs.empty();
    }
    EXPECT_TRUE(is_seen) << name;
  }
  EXPECT_EQ(called, registered) << "an op without a call here";
}

// What is redispatched is no event of the recorder's, and its result no tensor that it knows.
TEST(PitfallsOfUnseenCode, WhatIsRedispatchedIsFoundByWhatReadsItFirst) {
  const Finding finding = first_finding([] {
    const Scope scope("act");
    const at::Tensor h = at::redispatch::div(c10::DispatchKeySet(c10::DispatchKey::CPU),
                                             at::zeros({4}), at::zeros({4}));
    (h * 2).sum();
  });
  EXPECT_EQ(headline(finding),
            "a tensor without a name [fp32]: not finite before the step, first read by aten::mul "
            "(forward of act)");
}

/// A gradient that is made in the forward pass, as the head's, by no op that is seen.
class GradientOfForward : public torch::autograd::Function<GradientOfForward> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    const at::Tensor zeros = at::zeros(x.sizes());
    ctx->save_for_backward(
        {at::redispatch::div(c10::DispatchKeySet(c10::DispatchKey::CPU), zeros, zeros)});
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list&) {
    return {ctx->get_saved_variables()[0]};
  }
};

TEST(PitfallsOfUnseenCode, ANaNThatABackwardPassReadsFirstIsNotOlderThanTheStep) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  const Diagnosis alone = watched([&] { GradientOfForward::apply(w * 2).sum().backward(); });
  ASSERT_EQ(alone.findings.size(), 1) << to_text(alone);
  EXPECT_EQ(alone.findings[0].cause, Cause::kUnseenKernel);
  EXPECT_EQ(alone.findings[0].note, "first read by aten::mul");
  // It is what an earlier one led to.
  const Diagnosis later =
      watched([&] { GradientOfForward::apply((w - 1).log()).sum().backward(); });
  EXPECT_THAT(headlines(later),
              ::testing::ElementsAre("aten::log [fp32], forward: division by zero"));
}

TEST(PitfallsOfUnseenCode, AStepThatEndsInANaNOfNobodysIsNotHealthy) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&w] {
    const at::Tensor loss = w.sum();
    loss.backward();
    *loss.data_ptr<float>() = std::numeric_limits<float>::quiet_NaN();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  ASSERT_TRUE(diagnosis.findings.empty()) << to_text(diagnosis);
  EXPECT_FALSE(diagnosis.is_healthy());
  EXPECT_THAT(to_text(diagnosis), ::testing::HasSubstr("not finite (loss nan), and no op found"));
}

/// Of one rank that finds its own numbers at another: all-reduce doubles them, when it is waited
/// for or at once.
class Doubling : public c10d::Backend {
 public:
  explicit Doubling(bool waits) : Backend(0, 1), waits_(waits) {}
  const std::string getBackendName() const override { return "doubling"; }
  int calls() const { return calls_; }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions&) override {
    ++calls_;
    auto work = c10::make_intrusive<Sum>(tensors.at(0));
    if (!waits_) work->wait({});
    return work;
  }

 private:
  // The numbers come over a wire, by no op.
  struct Sum : c10d::Work {
    explicit Sum(at::Tensor reduced) : tensor(std::move(reduced)) {}
    bool isCompleted() override { return is_done; }
    bool wait(std::chrono::milliseconds) override {
      const at::DisableRecordFunctionGuard no_op;
      if (!std::exchange(is_done, true)) tensor.mul_(2);
      return true;
    }
    at::Tensor tensor;
    bool is_done = false;
  };

  bool waits_;
  int calls_ = 0;
};

/// The sum of 4e4 over two ranks in fp16, which is then read by mul.
Finding finding_of_all_reduce(const c10::intrusive_ptr<Doubling>& backend) {
  c10d::ProcessGroup group(c10::make_intrusive<c10d::HashStore>(), 0, 1);
  group.setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, backend);
  group.setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  return first_finding([&] {
    const Scope scope("reduce");
    std::vector<at::Tensor> tensors = {half({4}, 4e4).mul(1)};
    group.allreduce(tensors)->wait();
    (tensors[0] * 1).sum();
  });
}

TEST(PitfallsOfUnseenCode, AReductionThatOverflowsIsTheCollectivesWhichIsNotRunAgain) {
  const auto backend = c10::make_intrusive<Doubling>(/*waits=*/false);
  EXPECT_EQ(headline(finding_of_all_reduce(backend)),
            "c10d::allreduce_ [fp16], forward of reduce: overflow");
  EXPECT_EQ(backend->calls(), 1) << "the other ranks would wait for ever";
}

TEST(PitfallsOfUnseenCode, WhatACollectiveLeavesAfterItsOpHasEndedIsFoundByWhatReadsIt) {
  const auto backend = c10::make_intrusive<Doubling>(/*waits=*/true);
  const Finding finding = finding_of_all_reduce(backend);
  EXPECT_EQ(finding.cause, Cause::kUnseenKernel);
  EXPECT_EQ(finding.note, "first read by aten::mul");
  EXPECT_EQ(finding.module, "reduce");
}

}  // namespace
}  // namespace mezzo::numerics
