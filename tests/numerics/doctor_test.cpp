#include "mezzo/numerics/doctor.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/error.h"
#include "mezzo/base/memory.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "mezzo/optim/compact_adamw.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::numerics {
namespace {

using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;

// exp(12) = 162755 in the part "blocks.1.act".
at::Tensor step_that_overflows(const at::Tensor& x, const at::Tensor& w) {
  at::Tensor h;
  {
    const Scope scope("blocks.1.act");
    h = at::matmul(x, w).exp();
  }
  const at::Tensor loss = (h / h.sum()).to(at::kFloat).pow(2).sum();
  loss.backward();
  return loss;
}

struct Overflowing {
  at::Tensor w = at::full({4, 4}, 3.0, at::kHalf).set_requires_grad(true);
  at::Tensor x = at::ones({2, 4}, at::kHalf);
  Patient patient{[this] { return step_that_overflows(x, w); }, {{"w", w}}, {}, {{"x", x}}};
};

TEST(Diagnose, NamesTheOpThatOverflowedAndWhatCuresIt) {
  const Overflowing sick;
  const Diagnosis diagnosis = diagnose(sick.patient);
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  const Finding& finding = diagnosis.findings.front();
  EXPECT_EQ(headline(finding), "aten::exp [fp16], forward of blocks.1.act: overflow");
  EXPECT_EQ(finding.element, (std::vector<int64_t>{0, 0}));
  EXPECT_DOUBLE_EQ(finding.exact.value(), std::exp(12.0));
  EXPECT_EQ(finding.operands.at(0).value, 12.0);
  EXPECT_EQ(finding.sample, 0);
  EXPECT_EQ(finding.chain.back(), "1 of 1 parameters' gradients");
  EXPECT_EQ(diagnosis.is_reproduced, true);
  ASSERT_FALSE(diagnosis.remedies.empty());
  EXPECT_TRUE(diagnosis.remedies.front().is_proved);
  EXPECT_THAT(diagnosis.remedies.front().advice, HasSubstr("blocks.1.act:exp=fp32"));
}

TEST(Diagnose, SaysNoSampleOfAWeightsGradientWithAsManyRowsAsTheBatchHas) {
  const at::Tensor w = at::full({8, 8}, 0.01, at::kHalf).set_requires_grad(true);
  const at::Tensor x = at::full({8, 8}, 30.0, at::kHalf);
  const Diagnosis diagnosis = diagnose({[&] {
                                          const at::Tensor h = at::linear(x, w).to(at::kFloat);
                                          const at::Tensor loss = h.sum() * 600;
                                          loss.backward();
                                          return loss;
                                        },
                                        {{"w", w}},
                                        {},
                                        {{"x", x}}});
  ASSERT_FALSE(diagnosis.findings.empty());
  EXPECT_EQ(diagnosis.findings[0].direction, Direction::kBackward);
  EXPECT_FALSE(diagnosis.findings[0].sample.has_value()) << to_text(diagnosis);
}

TEST(Diagnose, SaysHowLargeTheNumbersOfTheOpAndOfItsPartWere) {
  const Overflowing sick;
  const Diagnosis diagnosis = diagnose(sick.patient);
  const Finding& finding = diagnosis.findings.at(0);
  const auto of_exponent = [](int exponent) {
    return static_cast<size_t>(exponent - Magnitudes::kFirstExponent);
  };
  EXPECT_EQ(finding.operands.at(0).magnitudes->counts[of_exponent(3)], 8);  // 12
  EXPECT_EQ(finding.magnitudes->nonfinite, 8);
  EXPECT_EQ(finding.exact_magnitudes->nonfinite, 0);
  EXPECT_EQ(finding.exact_magnitudes->counts[of_exponent(17)], 8);  // 162755

  const Link& birth = finding.way.at(0);
  EXPECT_EQ(birth.op, "aten::exp");
  EXPECT_EQ(birth.sizes, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(birth.nonfinite, 8);
  EXPECT_GT(finding.way.size(), 1u);
  EXPECT_EQ(finding.sinks.back(), "1 of 1 parameters' gradients");

  const PartMagnitudes& part = diagnosis.parts.at(0);
  EXPECT_EQ(part.module, "blocks.1.act");
  EXPECT_EQ(part.dtype, at::kHalf);
  EXPECT_EQ(part.results, 2);
  EXPECT_EQ(part.values, 16);
  EXPECT_EQ(part.nonfinite, 8);
  EXPECT_EQ(part.largest, 12.0);
  EXPECT_EQ(part.largest_op, "aten::matmul");
  EXPECT_EQ(part.median, 12.0);
  EXPECT_EQ(diagnosis.parts.back().direction, Direction::kBackward);
}

TEST(Diagnose, LeavesEverythingAsItWas) {
  Overflowing sick;
  const at::Tensor grad = at::ones({4, 4}, at::kHalf);
  sick.w.mutable_grad() = grad;
  const at::Tensor buffer = at::ones({3});
  sick.patient.buffers = {{"buffer", buffer}};
  const at::Tensor unnamed = at::ones({3});
  sick.patient.step = [&] {
    buffer.add_(1);
    unnamed.mul_(2);
    return step_that_overflows(at::dropout(sick.x, 0.5, true), sick.w);
  };
  const at::Tensor random = at::detail::getDefaultCPUGenerator().get_state();
  diagnose(sick.patient);
  EXPECT_BIT_EQUAL(sick.w.detach(), at::full({4, 4}, 3.0, at::kHalf));
  EXPECT_TRUE(sick.w.grad().is_same(grad));
  EXPECT_BIT_EQUAL(grad, at::ones({4, 4}, at::kHalf));
  EXPECT_BIT_EQUAL(buffer, at::ones({3}));
  EXPECT_BIT_EQUAL(unnamed, at::ones({3}));
  EXPECT_BIT_EQUAL(at::detail::getDefaultCPUGenerator().get_state(), random);
}

/// One that begins with `change`.
Patient changing(const Overflowing& sick, const std::function<void()>& change) {
  Patient patient = sick.patient;
  patient.step = [&sick, change] {
    change();
    return step_that_overflows(sick.x, sick.w);
  };
  return patient;
}

TEST(Diagnose, PutsBackWhatSeveralViewsOfOneMemoryChanged) {
  const Overflowing sick;
  const at::Tensor average = at::full({3}, 2.0);
  diagnose(changing(sick, [&] {
    average.detach().mul_(0.5);
    average.slice(0, 0, 2).add_(1.0);
  }));
  EXPECT_BIT_EQUAL(average, at::full({3}, 2.0));
}

TEST(Diagnose, PutsBackWhatOpsOnlyWrite) {
  const Overflowing sick;
  const at::Tensor last = at::zeros({4}), rows = at::zeros({2, 4}), pointing = at::ones({4}),
                   other = at::zeros({4});
  at::Tensor scratch = at::zeros({0});
  diagnose(changing(sick, [&] {
    const at::Tensor moved = at::ones({4}) - last;
    last.copy_(moved);
    rows[1].fill_(1.0);
    at::add_out(scratch, moved, moved);
    pointing.set_(other);
  }));
  EXPECT_BIT_EQUAL(last, at::zeros({4}));
  EXPECT_BIT_EQUAL(rows, at::zeros({2, 4}));
  EXPECT_BIT_EQUAL(scratch, at::zeros({0}));
  EXPECT_BIT_EQUAL(other, at::zeros({4}));
}

TEST(Diagnose, PutsBackCountersFlagsAndRunningStatistics) {
  const Overflowing sick;
  const at::Tensor counter = at::zeros({1}, at::kLong), flags = at::zeros({2}, at::kBool),
                   mean = at::zeros({4}), variance = at::ones({4});
  diagnose(changing(sick, [&] {
    counter.add_(1);
    flags.logical_not_();
    at::batch_norm(at::randn({8, 4}), {}, {}, mean, variance, /*training=*/true, 0.1, 1e-5, false);
  }));
  EXPECT_BIT_EQUAL(counter, at::zeros({1}, at::kLong));
  EXPECT_BIT_EQUAL(flags, at::zeros({2}, at::kBool));
  EXPECT_BIT_EQUAL(mean, at::zeros({4}));
  EXPECT_BIT_EQUAL(variance, at::ones({4}));
}

// The copies to restore, and the step's gradients to compare others with.
TEST(Diagnose, PutsBackWeightsThatTheStepHasSplit) {
  const at::Tensor w = at::full({4, 4}, 1.0F / 3, at::kFloat).set_requires_grad(true);
  const at::Tensor x = at::full({2, 4}, std::numeric_limits<float>::infinity());
  const at::Tensor before = w.detach().clone();
  const Diagnosis diagnosis = diagnose(
      {[&] {
         optim::CompactAdamW optimizer({w}, optim::CompactAdamWOptions().split_weights(true));
         const at::Tensor loss = at::linear(x.to(w.scalar_type()), w).to(at::kFloat).sum();
         loss.backward();
         optimizer.step();
         return loss.detach();
       },
       {{"w", w}},
       {},
       {{"x", x}}});
  EXPECT_EQ(w.scalar_type(), at::kFloat);
  EXPECT_TRUE(w.detach().equal(before));
  EXPECT_EQ(diagnosis.is_reproduced, true) << to_text(diagnosis);
}

TEST(Diagnose, AHealthyStepCostsASecondCopyOfParametersAndGradients) {
  constexpr int64_t kSide = 1024, kBytes = kSide * kSide * 4;
  TensorMemoryMeter meter;
  const at::Tensor w = at::ones({kSide, kSide}).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    const at::Tensor loss = at::matmul(at::ones({1, kSide}), w).mean();
    loss.backward();
    return loss;
  };
  patient.step();
  const int64_t of_step = meter.peak_bytes();
  w.mutable_grad().reset();
  EXPECT_TRUE(diagnose(patient).is_healthy());
  EXPECT_LT(meter.peak_bytes(), of_step + 2 * kBytes + kBytes / 4);
}

// Scores are kept to be looked at, and no step reads them.
TEST(Diagnose, ABadNumberInWhatIsOnlyWrittenIsNoFinding) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true), kept = at::zeros({4});
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    kept.copy_(at::zeros({4}).log());
    const at::Tensor loss = w.sum();
    loss.backward();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  EXPECT_TRUE(diagnosis.is_healthy()) << to_text(diagnosis);
}

// Two causes, so that no op alone in fp32 is the cure.
TEST(Diagnose, ATrialInBf16LeavesTheTypeOfAutocastAsItWas) {
  Overflowing sick;
  sick.patient.step = [&] {
    const at::Tensor sums = at::matmul(sick.x, sick.w);
    const at::Tensor shares = sums.exp() / sums.exp().sum();
    const at::Tensor loss = (shares * (sums * 6000)).to(at::kFloat).pow(2).sum();
    loss.backward();
    return loss;
  };
  const at::ScalarType before = at::autocast::get_autocast_dtype(at::kCUDA);
  ASSERT_EQ(before, at::kHalf);
  const Diagnosis diagnosis = diagnose(sick.patient);
  EXPECT_THAT(diagnosis.remedies, Contains(Field(&Remedy::change, "bf16 instead of fp16")))
      << to_text(diagnosis);
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCUDA), before);
}

TEST(Diagnose, ProvesTheRemedyOfABatchOfWhichTheHeadCountsNothing) {
  const at::Tensor x = at::ones({5, 8}), weight = at::ones({31, 8}).set_requires_grad(true),
                   targets = at::full({5}, -100, at::kLong);
  Patient patient;
  patient.parameters = {{"head.weight", weight}};
  patient.step = [&] {
    const at::Tensor loss = kernels::linear_cross_entropy(x, weight, targets);
    loss.backward();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  ASSERT_FALSE(diagnosis.remedies.empty()) << to_text(diagnosis);
  EXPECT_TRUE(diagnosis.remedies.front().is_proved) << to_text(diagnosis);
  EXPECT_THAT(diagnosis.remedies.front().advice, HasSubstr("leave out a batch"));
}

TEST(Diagnose, SeesThatAStepIsNotReproduced) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  int run = 0;
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    const Scope scope("part");
    const at::Tensor loss = (w * (++run == 2 ? 1.5 : 1.0)).sum();  // a bit that flipped once
    loss.backward();
    return loss;
  };
  const Diagnosis once = diagnose(patient);
  EXPECT_EQ(once.is_reproduced, false);
  EXPECT_THAT(once.not_reproduced, HasSubstr("one run of three"));
  EXPECT_THAT(once.not_reproduced, HasSubstr("aten::mul of part"));

  patient.step = [&] {
    const at::Tensor loss = (w * static_cast<double>(++run)).sum();
    loss.backward();
    return loss;
  };
  EXPECT_THAT(diagnose(patient).not_reproduced, HasSubstr("not deterministic"));
}

/// Gives tensors of one size the same memory each time, as a general allocator may.
class SameMemory : public c10::Allocator {
 public:
  explicit SameMemory(size_t bytes) : memory_(bytes) { c10::SetCPUAllocator(this, kPriority); }
  ~SameMemory() override { c10::SetCPUAllocator(before_, kPriority); }
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes != memory_.size() || is_taken_) return before_->allocate(bytes);
    is_taken_ = true;
    const auto give_back = [](void* self) { static_cast<SameMemory*>(self)->is_taken_ = false; };
    return {memory_.data(), this, give_back, at::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr uint8_t kPriority = 255;
  std::vector<char> memory_;
  bool is_taken_ = false;
  c10::Allocator* before_ = c10::GetCPUAllocator();
};

// In the second run the kernel finds there what it wrote in the first.
TEST(Diagnose, AKernelThatWritesWhatLayInItsMemoryMakesNoRunAnother) {
  constexpr int64_t kNumbers = 1003;
  const SameMemory memory(kNumbers * sizeof(float));
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    const at::Tensor made = at::empty({kNumbers});  // written by code that is no op
    std::iota(made.mutable_data_ptr<float>(), made.mutable_data_ptr<float>() + kNumbers, 1.0f);
    const at::Tensor loss = (w * made.to(at::kDouble).mean()).sum();
    loss.backward();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  EXPECT_EQ(diagnosis.is_reproduced, true) << diagnosis.not_reproduced;
  EXPECT_TRUE(diagnosis.is_healthy()) << to_text(diagnosis);
}

// What overflows is written without an op of the dispatcher.
class Unseen : public torch::autograd::Function<Unseen> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x, double value) {
    at::Tensor y = at::empty(x.sizes(), x.options().requires_grad(false));
    std::fill_n(y.data_ptr<float>(), y.numel(), static_cast<float>(value));
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list grads) {
    return {grads[0], {}};
  }
};

// NaN all over is what memory that nobody has written looks like, too.
TEST(Diagnose, NamesCodeThatIsNoOpByWhatReadsItFirst) {
  using Limits = std::numeric_limits<double>;
  for (const double value : {Limits::infinity(), Limits::quiet_NaN()}) {
    const at::Tensor w = at::ones({4}).set_requires_grad(true);
    Patient patient;
    patient.parameters = {{"w", w}};
    patient.step = [&] {
      const Scope scope("custom");
      const at::Tensor loss = (Unseen::apply(w, value) * w).sum();
      loss.backward();
      return loss;
    };
    const Diagnosis diagnosis = diagnose(patient);
    ASSERT_FALSE(diagnosis.findings.empty());
    EXPECT_EQ(diagnosis.findings.front().cause, Cause::kUnseenKernel) << to_text(diagnosis);
    EXPECT_EQ(diagnosis.findings.front().module, "custom");
    EXPECT_THAT(diagnosis.findings.front().note, HasSubstr("aten::mul"));
  }
}

TEST(Diagnose, WithoutAScopeNamesTheParameterNearby) {
  const at::Tensor w = at::full({4, 4}, 3e4, at::kHalf).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"fc9.weight", w}};
  patient.step = [&] {
    const at::Tensor loss = at::matmul(at::ones({2, 4}, at::kHalf), w).sum();
    loss.backward();
    return loss;
  };
  const Finding finding = diagnose(patient).findings.at(0);
  EXPECT_EQ(finding.parameter, "fc9.weight");
  EXPECT_THAT(headline(finding), HasSubstr("near fc9.weight"));
}

TEST(Diagnose, AStepThatThrowsIsAFindingAndLosesNothing) {
  const at::Tensor w = at::ones({4, 4}).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&]() -> at::Tensor {
    const Scope scope("fc");
    return at::matmul(at::ones({2, 5}), w);
  };
  const Diagnosis diagnosis = diagnose(patient);
  ASSERT_EQ(diagnosis.findings.size(), 1);
  EXPECT_EQ(diagnosis.findings.front().cause, Cause::kError);
  EXPECT_EQ(diagnosis.findings.front().op, "aten::matmul");
  EXPECT_EQ(diagnosis.findings.front().module, "fc");
  EXPECT_THAT(diagnosis.findings.front().note, HasSubstr("cannot be multiplied"));
}

TEST(Diagnose, WorksFromAnyThreadOneAtATime) {
  Diagnosis diagnosis;
  std::thread([&] {
    const Overflowing sick;
    diagnosis = diagnose(sick.patient);
  }).join();
  EXPECT_EQ(diagnosis.findings.size(), 1);
  const Overflowing sick;
  Patient outer;
  outer.step = [&] {
    EXPECT_THROW_WITH(diagnose(sick.patient), "already being recorded");
    return at::ones({});
  };
  EXPECT_TRUE(diagnose(outer).is_healthy());
}

TEST(Diagnose, RefusesAPatientWithoutAStep) {
  EXPECT_THROW_WITH(diagnose(Patient{}), "has no step to run");
}

TEST(Diagnose, TheTextHoldsNoMinusNaN) {
  const at::Tensor w = at::ones({2}).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    const at::Tensor loss = (w * -std::numeric_limits<double>::quiet_NaN()).sum();
    loss.backward();
    return loss;
  };
  EXPECT_THAT(to_text(diagnose(patient)), ::testing::Not(HasSubstr("-nan")));
}

}  // namespace
}  // namespace mezzo::numerics
