// Where the reading of a recorded step goes wrong: births that get lost on their way, garbage that
// nobody reads, NaN that is made to vanish, what rounding absorbs, and state that is left out.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/fmax.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/recorder.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/compact_adamw.h"
#include "tests/close.h"
#include "tests/numerics/watched.h"

namespace mezzo::numerics {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kInf = std::numeric_limits<float>::infinity();

/// A step without a backward pass.
Patient patient_of(const std::function<at::Tensor()>& step) { return {step, {}, {}, {}}; }

// ---- A birth on its way

TEST(PitfallsOfReading, ACompositeKeepsTheBirthThatAnOpWithinItHad) {
  const std::map<std::string, std::function<at::Tensor()>> births = {
      {"aten::linear > aten::addmm [fp16], forward of fc: overflow",
       [] {
         return at::linear(half({2, 4}, 200), half({4, 4}, 200), half({4}, 0));
       }},
      {"aten::matmul > aten::mm [fp16], forward of fc: overflow",  // of a view, given back as one
       [] {
         return at::matmul(half({2, 3, 4}, 200), half({4, 4}, 200));
       }},
      {"aten::_to_copy > aten::copy_ [fp16], forward of fc: overflow",
       [] { return at::full({4}, 1e5).to(at::kHalf); }}};
  for (const auto& [line, birth] : births) {
    const Diagnosis diagnosis = watched([&birth] {
      const Scope scope("fc");
      (birth() * 2).relu();
    });
    ASSERT_THAT(headlines(diagnosis), ElementsAre(line));
    EXPECT_EQ(diagnosis.findings[0].way.back().op, "aten::relu");
  }
}

TEST(PitfallsOfReading, WhatIsExactIsKnownWhereAnOpWithinHasNoKernelForFP64) {
  const Finding finding = first_finding([] {
    at::conv2d(at::full({1, 1, 3, 3}, 1e20), at::full({1, 1, 2, 2}, 1e20)).sum();
  });
  EXPECT_EQ(finding.op, "aten::conv2d");
  ASSERT_TRUE(finding.exact.has_value()) << headline(finding);
  EXPECT_FLOAT_EQ(static_cast<float>(*finding.exact / 1e40), 4.0f);
}

// Which part of the memory is written is told by spans.
TEST(PitfallsOfReading, AWriteIntoAPartLeavesTheRestsBadNumbersTheirs) {
  const at::Tensor zeros = at::zeros({4});
  const Diagnosis diagnosis = watched([&] {
    at::Tensor buffer = at::zeros({2, 4});
    buffer[0].copy_(zeros.log());
    buffer[1].copy_(at::ones({4}));  // finite, and later
    buffer.select(1, 3).fill_(1);    // a column: its span holds more than it
    buffer.sum();
  });
  EXPECT_THAT(headlines(diagnosis), ElementsAre("aten::log [fp32], forward: division by zero"));
}

TEST(PitfallsOfReading, PartsThatWentBadByDifferentOpsAreFoundBoth) {
  const at::Tensor zeros = at::zeros({4});
  const Diagnosis diagnosis = watched([&] {
    at::Tensor buffer = at::zeros({2, 4});
    buffer[0].copy_(zeros.log());
    buffer[1].copy_(zeros / zeros);
    buffer.sum();
  });
  EXPECT_THAT(headlines(diagnosis), ElementsAre("aten::log [fp32], forward: division by zero",
                                                "aten::div [fp32], forward: invalid operation"));
}

TEST(PitfallsOfReading, AWriteOverAllOfItTakesTheBadNumbersAway) {
  const at::Tensor zeros = at::zeros({4}), ones = at::ones({4}), buffer = at::zeros({4});
  const auto overwritten_with = [&](const std::function<at::Tensor()>& made) {
    return diagnose(patient_of([&buffer, &ones, made] {
      buffer.copy_((-ones).log());
      buffer.copy_(made());
      return buffer.sum();
    }));
  };
  EXPECT_THAT(headlines(overwritten_with([&] { return ones; })), IsEmpty());
  // As bad, by another op.
  EXPECT_THAT(headlines(overwritten_with([&] { return zeros / zeros; })),
              ElementsAre("aten::div [fp32], forward: invalid operation"));
}

// ---- What a fused op hides

at::Tensor huge_attention() {
  const at::Tensor x = at::full({1, 1, 2, 8}, 1e25);  // logits of 1e50
  return at::scaled_dot_product_attention(x, x, x).sum();
}

at::Tensor huge_fused_attention() {
  const at::Tensor qkv = at::full({1, 2, 24}, 1e25);
  return kernels::attention_linear(qkv, 1, at::ones({8, 8}), {}).sum();
}

TEST(PitfallsOfReading, AnOverflowWithinAFusedOpIsToldFromOneOfItsResult) {
  for (const auto& [op, attention] : std::map<std::string, at::Tensor (*)()>{
           {"aten::scaled_dot_product_attention", &huge_attention},
           {"mezzo::attention_linear", &huge_fused_attention}}) {
    const Diagnosis diagnosis = watched([&attention = attention] { attention(); });
    ASSERT_FALSE(diagnosis.findings.empty()) << op;
    EXPECT_EQ(diagnosis.findings[0].op, op);
    EXPECT_EQ(diagnosis.findings[0].cause, Cause::kInnerOverflow) << to_text(diagnosis);
  }
}

// Their squares are far beyond fp16, and a variance of Inf would end as a finite 0.
TEST(PitfallsOfReading, AFusedNormOfTheLargestHalfsHidesNoOverflow) {
  at::Tensor x = half({1, 2, 8}, 65504);
  x.slice(2, 0, 8, 2).neg_();
  const at::Tensor weight = half({1, 8}, 0);
  weight.select(1, 1).fill_(1);
  const auto [stream, y] =
      kernels::residual_norm_linear(x, {}, half({8}, 1), {}, weight, {}, 1e-5, false);
  EXPECT_BIT_EQUAL(y.flatten(), half({2}, 1));
}

// ---- Memory that nobody has written

/// What at::empty makes is NaN while it lives, as by chance it may be.
class FilledMemory {
 public:
  FilledMemory() { at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true); }
  ~FilledMemory() { at::globalContext().setDeterministicAlgorithms(false, false); }
  FilledMemory(const FilledMemory&) = delete;
  FilledMemory& operator=(const FilledMemory&) = delete;
};

TEST(PitfallsOfReading, EmptyMemoryIsBornBadForWhoReadsItAlone) {
  const FilledMemory filled;
  EXPECT_THAT(headlines(watched([] { at::empty({4}); })), IsEmpty());
  EXPECT_THAT(headlines(watched([] { at::empty({4}).fill_(1).sum(); })), IsEmpty());
  EXPECT_THAT(headlines(watched([] { at::empty({4}).sum(); })),
              ElementsAre("aten::empty [fp32], forward: uninitialised memory"));
}

TEST(PitfallsOfReading, WhatMadeTheMemoryPassesNothingOn) {
  const FilledMemory filled;
  const Finding finding = first_finding([] {
    const at::Tensor bad = at::zeros({4}) / at::zeros({4}), copy = at::zeros({4});
    std::copy_n(bad.const_data_ptr<float>(), 4, copy.data_ptr<float>());  // by no op
    copy.sum();
  });
  EXPECT_EQ(finding.op, "aten::div");
  for (const Link& link : finding.way) EXPECT_NE(link.op, "aten::zeros");
}

// at::tensor writes by no op, and here mostly what its memory holds already.
TEST(PitfallsOfReading, ANumberThatWasInItsMemoryBeforeIsWrittenAllTheSame) {
  for (int i = 0; i < 50; ++i) {
    {
      std::vector<at::Tensor> freed;
      for (int k = 0; k < 40; ++k) freed.push_back(at::zeros({16}));
    }
    EXPECT_THAT(headlines(watched([] { at::tensor({0.0f}).log().sum(); })),
                ElementsAre("aten::log [fp32], forward: division by zero"));
  }
}

TEST(PitfallsOfReading, AStepIsGoodThoughItLeavesMemoryUnread) {
  const FilledMemory filled;
  const at::Tensor w = at::ones({4}).set_requires_grad(true);
  const Diagnosis diagnosis = watched([&] {
    const at::Tensor spare = at::empty({4});
    (w * 2).sum().backward();
    (w * half({}, 1)).sum().backward();
    at::zeros({4}).log();
  });
  EXPECT_THAT(headlines(diagnosis), ElementsAre("aten::log [fp32], forward: division by zero"));
}

// ---- NaN that is made to vanish

// exp(12) and exp(13) overflow in fp16, their shares of the sum are NaN, and what `end` makes of
// these is finite.
Patient patient_ending_in(const std::function<at::Tensor(const at::Tensor&)>& end) {
  return patient_of([end] {
    const Scope scope("act");
    const at::Tensor h = at::tensor({12.0, 13.0}).to(at::kHalf).exp();
    return end(h / h.sum()).to(at::kFloat).sum();
  });
}

TEST(PitfallsOfReading, AnOverflowIsFoundWhateverMakesItsNaNVanish) {
  using End = std::function<at::Tensor(const at::Tensor&)>;
  const std::map<std::string, End> ends = {
      {"nan_to_num", [](const at::Tensor& p) { return at::nan_to_num(p); }},
      {"where", [](const at::Tensor& p) { return at::where(p.isfinite(), p, 0.0); }},
      {"masked_fill", [](const at::Tensor& p) { return p.masked_fill(p.isnan(), 0); }},
      {"fmax", [](const at::Tensor& p) { return at::fmax(p, half({}, 0)); }},
      {"comparison", [](const at::Tensor& p) { return p > 0; }},
      {"argmax", [](const at::Tensor& p) { return p.argmax(); }}};
  for (const auto& [name, end] : ends) {
    const Diagnosis diagnosis = diagnose(patient_ending_in(end));
    ASSERT_TRUE(std::isfinite(diagnosis.loss)) << name;
    EXPECT_THAT(headlines(diagnosis),
                ElementsAre("aten::exp [fp16], forward of act: swallowed overflow"))
        << name;
  }
}

TEST(PitfallsOfReading, AnInfinityThatIsClampedToARealBoundIsNoFinding) {
  const Patient clamps =
      patient_of([] { return half({8}, 12).exp().clamp_max(100).to(at::kFloat).sum(); });
  EXPECT_THAT(headlines(diagnose(clamps)), IsEmpty());
  const Patient saturates =
      patient_of([] { return half({8}, 12).exp().clamp_max(65504).to(at::kFloat).sum(); });
  EXPECT_THAT(headlines(diagnose(saturates)), IsEmpty());
}

TEST(PitfallsOfReading, AnOverflowBesideAMaskIsNotTheMasks) {
  at::Tensor scores = half({2, 4}, -4e4), mask = half({4}, 0);
  mask[0] = -kInf;
  for (const auto& doubled : std::map<std::string, std::function<at::Tensor()>>{
           {"aten::add", [&] { return scores + mask + scores; }},
           {"aten::mul", [&] { return (scores + mask) * 2; }},
           {"aten::_to_copy",
            [&] { return (scores.to(at::kFloat) * 2 + mask.to(at::kFloat)).to(at::kHalf); }}}) {
    const Finding finding =
        first_finding([&] { at::softmax(doubled.second(), -1).to(at::kFloat).sum(); });
    EXPECT_EQ(finding.op, doubled.first) << headline(finding);
    EXPECT_EQ(finding.cause, Cause::kOverflow);
    EXPECT_EQ(finding.exact, -8e4);
  }
  const Diagnosis masked = watched([&] { at::softmax(half({2, 2, 4}, 1) + mask, -1).sum(); });
  EXPECT_THAT(headlines(masked), IsEmpty());
}

TEST(PitfallsOfReading, ANaNThatIsReplacedByANumberIsAFinding) {
  const Patient patient = patient_of([] {
    const Scope scope("loss");
    return at::nan_to_num(at::zeros({4}) / at::zeros({4})).sum();
  });
  EXPECT_THAT(headlines(diagnose(patient)),
              ElementsAre("aten::div [fp32], forward of loss: swallowed invalid operation"));
}

// ---- Where a format ends, and what it absorbs

TEST(PitfallsOfReading, FP16EndsHalfwayToTheNumberAfterItsLargest) {
  const auto cast = [](double number, at::ScalarType dtype) {
    return watched([&] { at::full({4}, number).to(dtype).to(at::kFloat).sum(); });
  };
  EXPECT_THAT(headlines(cast(65519.0, at::kHalf)), IsEmpty());
  const Diagnosis beyond = cast(65520.0, at::kHalf);
  ASSERT_EQ(beyond.findings.size(), 1);
  EXPECT_EQ(beyond.findings[0].cause, Cause::kOverflow);
  EXPECT_EQ(beyond.findings[0].exact, 65520.0);
  EXPECT_THAT(headlines(cast(65520.0, at::kBFloat16)), IsEmpty());
}

TEST(PitfallsOfReading, AnOverflowIsOneInFP8AndOfComplexNumbersToo) {
  const Finding fp8 =
      first_finding([] { at::full({4}, 1000.0).to(at::kFloat8_e4m3fn).to(at::kFloat).sum(); });
  EXPECT_EQ(fp8.cause, Cause::kOverflow) << headline(fp8);
  const at::Tensor nan = at::full({4}, 1000.0).to(at::kFloat8_e4m3fn);
  EXPECT_EQ(first_finding([&nan] { nan.to(at::kFloat).sum(); }).cause, Cause::kExternal);
  const auto squared = [](double number) {
    return watched([number] {
      const at::Tensor z = at::full({4}, number, at::kComplexFloat);
      (number == 0 ? z / z : z * z).sum();
    });
  };
  const Diagnosis overflow = squared(1e30);
  ASSERT_FALSE(overflow.findings.empty());
  EXPECT_EQ(overflow.findings[0].cause, Cause::kOverflow);
  EXPECT_THAT(to_text(overflow),
              ::testing::HasSubstr("4 of 8 real and imaginary parts are not finite"));
  EXPECT_EQ(squared(0).findings.at(0).cause, Cause::kInvalid);
}

// A NaN that the backward pass hands to an op by way of a number is nobody's tensor.
TEST(PitfallsOfReading, AScalarIsNoTensorFromBeforeTheStep) {
  const Diagnosis diagnosis = watched([] {
    const at::Tensor x = at::ones({1, 4}).set_requires_grad(true);
    x.std(0).sum().backward();
  });
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.findings[0].op, "aten::std");
}

// Of a bf16 parameter of ones, by SGD.
Diagnosis diagnosis_of_update(double update) {
  const at::Tensor w = at::ones({4}, at::kBFloat16).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [w, update] {
    const at::Tensor loss = w.sum();
    loss.backward();
    const at::NoGradGuard no_grad;
    w.add_(w.grad(), update);
    return loss;
  };
  return diagnose(patient, {.tries_remedies = false});
}

// Above 1 the numbers of bf16 are 2^-7 apart.
TEST(PitfallsOfReading, AnUpdateOfUpToHalfAStepOfBF16IsLost) {
  const Diagnosis lost = diagnosis_of_update(0x1p-8);
  EXPECT_THAT(headlines(lost), ElementsAre("aten::add_ [bf16], optimizer, near w: lost update"));
  EXPECT_EQ(lost.findings.at(0).exact, 1 + 0x1p-8);
  EXPECT_THAT(headlines(diagnosis_of_update(0x1.1p-8)), IsEmpty());
}

TEST(PitfallsOfReading, PositionsCollideInBF16From257On) {
  const auto positions = [](int64_t T) {
    return diagnose(patient_of(
        [T] { return at::arange(T, at::TensorOptions(at::kBFloat16)).to(at::kFloat).sum(); }));
  };
  EXPECT_THAT(headlines(positions(257)), IsEmpty());
  EXPECT_THAT(headlines(positions(258)),
              ElementsAre("aten::arange > aten::arange [bf16], forward: integers that collide"));
}

// ---- All that has state

/// A training run of one parameter whose gradients are given.
template <class Optimizer>
struct Run {
  at::Tensor w = at::linspace(-1, 1, 8).set_requires_grad(true);
  Optimizer optimizer{std::vector<at::Tensor>{w}};
  GradScaler scaler{at::kCPU, {.init_scale = 8.0, .growth_interval = 2}};

  Run() { scaler.scale(at::ones({})); }

  void step(double gradient) {
    const auto scale = static_cast<double>(scaler.get_scale());
    w.mutable_grad() = at::full({8}, gradient * scale);
    scaler.step(optimizer);
    scaler.update();
  }
  std::map<std::string, at::Tensor> all() {
    auto tensors = optimizer.named_state({{"w", w}});
    tensors["w"] = w.detach();
    for (auto& [name, tensor] : tensors) tensor = tensor.clone();
    return tensors;
  }
};

template <class Optimizer>
class PitfallsOfState : public ::testing::Test {};
using Optimizers = ::testing::Types<optim::AdamW, optim::CompactAdamW>;
TYPED_TEST_SUITE(PitfallsOfState, Optimizers);

template <class Map>
void expect_same(const Map& actual, const Map& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_BIT_EQUAL(actual.at(name), tensor) << name;
}

TYPED_TEST(PitfallsOfState, ASkippedStepIsOneThatNeverWas) {
  Run<TypeParam> with_skips, without;
  for (const double gradient : {0.5, -0.25, 1.0}) {
    with_skips.step(kInf);
    with_skips.step(gradient);
    without.step(gradient);
    expect_same(with_skips.all(), without.all());
  }
  EXPECT_EQ(with_skips.all().at("step.w").template item<float>(), 3.0f);
  // Halved three times, and no two good steps in a row to grow after.
  EXPECT_EQ(with_skips.scaler.get_scale(), 1.0);
  EXPECT_EQ(without.scaler.get_scale(), 16.0);
}

/// A step of a run that has begun.
template <class Optimizer>
Patient patient_of(Run<Optimizer>& run) {
  run.step(0.5);
  Patient patient;
  patient.parameters = {{"w", run.w}};
  patient.step = [&run] {
    const at::Tensor loss = (run.w * run.w).sum();
    loss.backward();
    run.optimizer.step();
    return loss;
  };
  return patient;
}

TYPED_TEST(PitfallsOfState, ADiagnosedStepOfTheOptimizerIsReplayedExactlyAndPutBack) {
  Run<TypeParam> run;
  Patient patient = patient_of(run);
  for (const auto& [name, tensor] : run.optimizer.named_state({{"w", run.w}}))
    patient.buffers.emplace_back(name, tensor);
  const auto before = run.all();
  const Diagnosis diagnosis = diagnose(patient);
  EXPECT_TRUE(diagnosis.is_healthy()) << to_text(diagnosis);
  expect_same(run.all(), before);
}

}  // namespace
}  // namespace mezzo::numerics
