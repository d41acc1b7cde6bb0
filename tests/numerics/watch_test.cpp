#include "mezzo/numerics/watch.h"

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include "mezzo/base/error.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/recorder.h"
#include "tests/numerics/watched.h"
#include "tests/testing.h"

namespace mezzo::numerics {
namespace {

using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

// exp(4 w): overflows in fp16 from w = 2.78 on.
at::Tensor step(const at::Tensor& w) {
  at::Tensor h;
  {
    const Scope scope("act");
    h = at::matmul(at::ones({2, 4}, at::kHalf), w).exp();
  }
  const at::Tensor loss = (h / h.sum()).to(at::kFloat).pow(2).sum();
  loss.backward();
  return loss;
}

at::Tensor weights(double value) {
  return at::full({4, 4}, value, at::kHalf).set_requires_grad(true);
}

TEST(Watch, NamesTheOpWhoseResultOverflowed) {
  const at::Tensor w = weights(3.0);
  Watch watch;
  step(w);
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(headline(diagnosis.findings[0]), "aten::exp [fp16], forward of act: overflow");
  EXPECT_FALSE(diagnosis.is_reproduced.has_value());
  EXPECT_TRUE(diagnosis.remedies.empty());
  EXPECT_THAT(to_text(diagnosis), ::testing::Not(HasSubstr("replayed")));
}

TEST(Watch, KeepsTheFirstBadStepOfMany) {
  Watch watch;
  for (const double value : {1.0, 1.5, 3.0, 1.0, 3.5}) step(weights(value));
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_DOUBLE_EQ(diagnosis.findings[0].exact.value(), std::exp(12.0));
}

TEST(Watch, NamesABackwardOp) {
  const at::Tensor x = at::tensor({0.0f, 1.0f}).set_requires_grad(true);
  Watch watch;
  x.sqrt().sum().backward();
  const Diagnosis diagnosis = watch.report();
  ASSERT_FALSE(diagnosis.findings.empty());
  EXPECT_EQ(diagnosis.findings[0].direction, Direction::kBackward);
  EXPECT_EQ(diagnosis.findings[0].node, "SqrtBackward0");
}

TEST(Watch, SaysWhichEpsWasRoundedToZeroBeforeADivision) {
  const at::Tensor row = at::zeros({4}, at::kHalf);
  Watch watch;
  const at::Tensor y = row / (row.square() + 1e-8).sqrt();
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.findings[0].op, "aten::div");
  EXPECT_EQ(diagnosis.findings[0].note, "1e-08 is 0 in fp16, in aten::add");
}

TEST(Watch, BlamesNoEpsThatTheDivisionDoesNotReadFrom) {
  const at::Tensor row = at::zeros({4}, at::kHalf);
  Watch watch;
  const at::Tensor beside = row + 1e-8, y = row / row.sqrt();
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.findings[0].note, "");
}

TEST(Watch, CallsABadTensorByTheNameThatItWasGiven) {
  const at::Tensor x = at::tensor({std::numeric_limits<float>::quiet_NaN(), 1.0f});
  Watch watch;
  watch.name("features", x);
  (x * 2).sum();
  const Diagnosis diagnosis = watch.report();
  ASSERT_FALSE(diagnosis.findings.empty());
  EXPECT_EQ(diagnosis.findings[0].external, "features");
}

TEST(Watch, FindsWhatABatchWithoutANameHasWhateverOpReadsItFirst) {
  using Op = std::function<at::Tensor(const at::Tensor&)>;
  const std::map<std::string, Op> ops = {
      {"to", [](const at::Tensor& x) { return x.to(at::kHalf); }},
      {"contiguous", [](const at::Tensor& x) { return x.t().contiguous(); }},
      {"reshape", [](const at::Tensor& x) { return x.t().reshape({6}); }}};
  at::Tensor batch = at::ones({2, 3});
  batch[1][2] = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [name, op] : ops) {
    const Finding finding = first_finding([&op, &batch] { (op(batch) * 2).sum(); });
    EXPECT_EQ(finding.cause, Cause::kExternal) << name << ": " << headline(finding);
  }
}

// As batches come from the workers of Python's loader.
TEST(Watch, ATensorThatIsPointedAtOtherMemoryHasMadeNothing) {
  const at::Tensor there = at::full({4}, std::numeric_limits<float>::quiet_NaN());
  const Finding finding = first_finding([&there] {
    at::Tensor batch = at::empty({0});
    batch.set_(there.storage(), 0, {4});
    (batch * 2).sum();
  });
  EXPECT_EQ(finding.cause, Cause::kExternal) << headline(finding);
  EXPECT_EQ(finding.op, "aten::mul");
}

TEST(Watch, FindsTheOverflowOfTheFirstCast) {
  const at::Tensor batch = at::full({4}, 1e5);
  EXPECT_EQ(headline(first_finding([&batch] { (batch.to(at::kHalf) * 2).sum(); })),
            "aten::_to_copy > aten::copy_ [fp16], forward: overflow");
}

/// A step whose batch has these numbers.
Diagnosis diagnosis_of_batch(const std::vector<float>& numbers) {
  const at::Tensor batch = at::tensor(numbers), w = at::tensor({1.0f, 2.0f, -1.0f});
  w.set_requires_grad(true);
  Watch watch;
  watch.name("batch", batch);
  at::linear(batch.view({1, 3}), w.view({1, 3})).pow(2).sum().backward();
  return watch.report();
}

TEST(Watch, FindsInfinitiesInTheBatchAsItFindsNaN) {
  const std::string line =
      "batch [fp32]: not finite before the step, first read by aten::linear (forward)";
  for (const std::vector<float>& numbers : std::vector<std::vector<float>>{
           {1, kInf, 0}, {1, -kInf, 0}, {1, -kInf, -kInf}, {-kInf, 1, kInf}}) {
    const Diagnosis diagnosis = diagnosis_of_batch(numbers);
    EXPECT_THAT(headlines(diagnosis), ::testing::ElementsAre(line)) << to_text(diagnosis);
  }
}

TEST(Watch, AMaskBesideANaNIsNotAccused) {
  const at::Tensor w = at::zeros({4}).set_requires_grad(true);
  const at::Tensor mask = at::tensor({0.0f, 0.0f, 0.0f, -kInf});
  const Diagnosis diagnosis =
      watched([&] { at::softmax((w / w) + mask, -1).pow(2).sum().backward(); });
  EXPECT_THAT(headlines(diagnosis),
              ::testing::ElementsAre("aten::div [fp32], forward: invalid operation",
                                     "aten::div [fp32], backward: invalid operation"));
}

TEST(Watch, ALossThatIsLookedAtIsStillWhereTheNaNEnded) {
  Watch watch;
  const at::Tensor loss = at::tensor({0.0f}).log().sum();
  EXPECT_FALSE(loss.isfinite().item<bool>());
  EXPECT_TRUE(std::isinf(loss.item<float>()));
  const Diagnosis diagnosis = watch.report();
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.findings[0].op, "aten::log");
}

TEST(Watch, AnOverflowThatDoesNoHarmIsNone) {
  Watch watch;
  at::ones({1}).div(at::full({1}, 100.0f).exp().add(1)).sum();  // 1 / (1 + exp(x))
  EXPECT_TRUE(watch.report().findings.empty());
}

TEST(Watch, FindsNothingInHealthyStepsWithMasks) {
  const at::Tensor w = at::randn({8, 8}).set_requires_grad(true);
  const at::Tensor mask = at::full({8, 8}, -kInf).triu(1);
  Watch watch;
  for (int i = 0; i < 5; ++i) {
    const at::Tensor p = at::softmax(at::matmul(w, w.t()) + mask, -1);
    at::where(p > 0, p, at::full({}, -kInf)).exp().sum().backward();
  }
  const Diagnosis diagnosis = watch.report();
  EXPECT_TRUE(diagnosis.findings.empty()) << to_text(diagnosis);
  EXPECT_THAT(to_text(diagnosis), HasSubstr("nothing found in "));
}

TEST(Watch, ForgetsStepsThatLeftNothingBad) {
  Recorder recorder({.forgets_good_steps = true});
  step(weights(1.0));
  const size_t one = recorder.trace().records.size();
  for (int i = 0; i < 200; ++i) step(weights(1.0));
  EXPECT_LE(recorder.trace().records.size(), one + 2);
}

TEST(Watch, SeesOpsOnOtherThreads) {
  Watch watch;
  std::thread([] { step(weights(3.0)); }).join();
  EXPECT_EQ(watch.report().findings.size(), 1);
}

TEST(Watch, IsRefusedBesideAnotherAndADiagnosisWithin) {
  const Watch watch;
  EXPECT_THROW_WITH(Watch(), "one Recorder, diagnosis or Watch at a time");
  const at::Tensor w = weights(1.0);
  const Patient patient{[&] { return step(w); }, {{"w", w}}, {}, {}};
  EXPECT_THROW_WITH(diagnose(patient), "one Recorder, diagnosis or Watch at a time");
}

TEST(Watch, GivesOneReport) {
  Watch watch;
  watch.report();
  EXPECT_THROW_WITH(watch.report(), "one Watch, one report");
  EXPECT_THROW_WITH(watch.name("x", at::ones({1})), "x is named after the report");
}

TEST(Watch, LeavesNoCallbackBehind) {
  { const Watch watch; }
  EXPECT_FALSE(at::hasCallbacks());
  Watch watch;
  watch.report();
  EXPECT_FALSE(at::hasCallbacks());
}

/// A step beside torch's GradScaler: its gradient is the scale, in fp16 on its way.
void scaled_step(double scale, const std::function<at::Tensor(const at::Tensor&)>& part) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  (part(w.to(at::kHalf)).to(at::kFloat).sum() * scale).backward();
  at::Tensor found_inf = at::zeros({1});
  const std::vector<at::Tensor> gradients = {w.grad()};
  const at::Tensor inverse = at::full({1}, 1 / scale);
  const at::NoGradGuard no_grad;
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inverse);
  // A clip, before anybody asks whether the step is good.
  gradients[0].mul_((1 / (gradients[0].norm() + 1e-6)).clamp_max(1));
}

TEST(Watch, ASearchForTheLossScaleIsNoFindingAndEndsNoWatch) {
  const auto cube = [](const at::Tensor& w) { return w * w * w; };
  const auto root = [](const at::Tensor& w) { return (w - 1).sqrt(); };
  const auto log = [](const at::Tensor& w) { return (w - 1).log(); };
  const Diagnosis search = watched([&] { scaled_step(1e6, cube); });
  EXPECT_TRUE(search.findings.empty()) << to_text(search);
  const Diagnosis forward = watched([&] {
    for (const double scale : {1e6, 1e5}) scaled_step(scale, cube);
    scaled_step(1e3, log);
    scaled_step(1e2, cube);
  });
  EXPECT_EQ(headline(forward.findings.at(0)), "aten::log [fp16], forward: division by zero");
  const Diagnosis backward = watched([&] { scaled_step(1e3, root); });
  EXPECT_THAT(headlines(backward),
              ::testing::ElementsAre("aten::div [fp16], backward: division by zero"));
}

TEST(Watch, AValidationAfterAStepIsNoOptimizer) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true), average = at::ones({4});
  const auto train = [&](double rate) {
    w.square().sum().backward();
    const at::NoGradGuard no_grad;
    average.mul_(0.5).add_(w, 0.5);
    w.sub_(w.grad() / rate);
    w.mutable_grad() = at::Tensor();
  };
  const auto validate = [&] {
    const at::NoGradGuard no_grad;
    (w - 1e30).square().sum();
  };
  EXPECT_EQ(headline(first_finding([&] {
              train(1.0);
              validate();
            })),
            "aten::square > aten::pow [fp32], forward: overflow");
  EXPECT_EQ(headline(first_finding([&] {
              train(0.0);
              validate();
            })),
            "aten::div > aten::div [fp32], optimizer: division by zero");
}

TEST(Watch, GoesOnAfterAnOpThatThrew) {
  Watch watch;
  EXPECT_ANY_THROW(at::matmul(at::ones({2, 3}), at::ones({2, 3})));
  step(weights(3.0));
  EXPECT_EQ(watch.report().findings.size(), 1);
}

}  // namespace
}  // namespace mezzo::numerics
