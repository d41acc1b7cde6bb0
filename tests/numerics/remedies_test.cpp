// Which changes of a step are called its cure.

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/op_facts.h"

namespace mezzo::numerics {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsFalse;
using ::testing::IsTrue;
using ::testing::Not;
using ::testing::StartsWith;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor half(at::IntArrayRef sizes, double value) { return at::full(sizes, value, at::kHalf); }

/// Of a step that gives its loss, and differentiates it.
Diagnosis diagnosis_of(const std::vector<NamedTensor>& parameters,
                       const std::function<at::Tensor()>& loss) {
  Patient patient;
  patient.parameters = parameters;
  patient.step = [&] {
    at::Tensor of_step = loss();
    of_step.backward();
    return of_step;
  };
  return diagnose(patient);
}

auto proved(const std::string& change) {
  return Contains(
      AllOf(Field(&Remedy::is_proved, IsTrue()), Field(&Remedy::change, StartsWith(change))));
}

TEST(Remedy, NamesEachPartThatItWasProvedIn) {
  const at::Tensor w = half({4}, 3.0).set_requires_grad(true);
  const auto share_of_first = [&](const std::string& module) {
    const Scope scope(module);
    const at::Tensor exp = (w * 4).exp();  // 162755
    return (exp / exp.sum())[0].to(at::kFloat);
  };
  const Diagnosis diagnosis = diagnosis_of({{"w", w}}, [&] {
    const at::Tensor of_b = share_of_first("b");
    return of_b + share_of_first("a");
  });
  EXPECT_THAT(diagnosis.remedies, proved("aten::exp in b, a in fp32")) << to_text(diagnosis);
  EXPECT_THAT(diagnosis.remedies.front().advice,
              StartsWith("cast-rules = \"b:exp=fp32, a:exp=fp32\" (CastPolicy::set("
                         "\"exp\", CastRule::kFp32, \"b\"), CastPolicy::set("
                         "\"exp\", CastRule::kFp32, \"a\"))"));
}

// With the first product alone in fp32, autocast would cast what it gives for the second.
TEST(Remedy, NamesTheProductThatHasToFollow) {
  const at::Tensor w1 = at::full({4, 4}, 200.0).set_requires_grad(true),
                   w2 = at::full({4, 4}, 1e-3).set_requires_grad(true);
  const auto step = [&](const CastPolicy& policy) {
    const CastPolicyGuard guard(policy);
    const Autocast autocast(at::kCPU, at::kHalf);
    const auto product = [](const char* part, const at::Tensor& x, const at::Tensor& w) {
      const Scope scope(part);
      return at::matmul(x, w);
    };
    const at::Tensor y = product("up", at::full({2, 4}, 100.0), w1).relu();  // 80000
    return product("down", y, w2).to(at::kFloat).sum();
  };
  const Diagnosis diagnosis =
      diagnosis_of({{"w1", w1}, {"w2", w2}}, [&] { return step(CastPolicy::mezzo()); });
  EXPECT_THAT(diagnosis.remedies, proved("aten::matmul in up, aten::matmul in down in fp32"))
      << to_text(diagnosis);
  CastPolicy first = CastPolicy::mezzo(), both = first;
  first.set("matmul", CastRule::kFp32, "up");
  both.set("matmul", CastRule::kFp32, "up").set("matmul", CastRule::kFp32, "down");
  EXPECT_FALSE(std::isfinite(step(first).item<double>()));
  EXPECT_TRUE(std::isfinite(step(both).item<double>()));
}

// It does not cure this step, whose loss is infinite in fp32 too: but that is what has to be said.
TEST(Remedy, APartInFp32IsDifferentiatedInFp32) {
  const at::Tensor w1 = half({4, 4}, 100.0).set_requires_grad(true),
                   w2 = half({4, 4}, 100.0).set_requires_grad(true);
  const Diagnosis diagnosis = diagnosis_of({{"w1", w1}, {"w2", w2}}, [&] {
    at::Tensor y;
    {
      const Scope scope("mlp");
      y = at::matmul(at::matmul(half({2, 4}, 1.0), w1), w2);  // 160000
    }
    return y.to(at::kFloat).exp().sum();
  });
  const auto of_part = Field(&Remedy::change, "all of mlp in fp32");
  EXPECT_THAT(diagnosis.remedies,
              Contains(AllOf(of_part, Field(&Remedy::outcome, StartsWith("loss inf")))))
      << to_text(diagnosis);
}

// w1's gradient is 1e8, w2's 2e-5: no one scale is for both.
TEST(Remedy, ALossScaleThatLosesAGradientIsNone) {
  const at::Tensor w1 = half({4}, 1e-4).set_requires_grad(true),
                   w2 = half({256}, 0.5).set_requires_grad(true);
  const Diagnosis diagnosis = diagnosis_of({{"w1", w1}, {"w2", w2}}, [&] {
    return (w1 * half({1}, 1e4)).to(at::kFloat).sum() * 1e4 +
           (w2 * half({1}, 2e-5)).to(at::kFloat).sum();
  });
  ASSERT_FALSE(diagnosis.findings.empty());
  EXPECT_THAT(diagnosis.remedies,
              Contains(AllOf(Field(&Remedy::change, "a loss scale 2^12 times lower"),
                             Field(&Remedy::is_proved, IsFalse()),
                             Field(&Remedy::outcome, HasSubstr("gradients that are 0")))))
      << to_text(diagnosis);
  EXPECT_THAT(diagnosis.remedies, Not(proved("a loss scale"))) << to_text(diagnosis);
}

// The loss is 0.012, a rounding of 1 in fp16 0.0005, and 32 of them are more than all of it.
TEST(Remedy, OneThatLeavesASmallLossWrongIsNone) {
  const at::Tensor x = half({4}, 12.0).set_requires_grad(true);
  const Diagnosis diagnosis = diagnosis_of({{"x", x}}, [&] {
    at::Tensor share, inverse;
    {
      const Scope scope("a");
      const at::Tensor exp = x.exp();
      share = exp / exp.sum();
    }
    {
      const Scope scope("b");
      inverse = 1000.0 / x.detach().cosh();  // 0 in fp16
    }
    return (share.to(at::kFloat) - 0.25).pow(2).sum() + inverse.to(at::kFloat).mean();
  });
  EXPECT_THAT(diagnosis.remedies, Not(proved("aten::exp in a in fp32"))) << to_text(diagnosis);
  EXPECT_THAT(diagnosis.remedies, proved("bf16 instead of fp16")) << to_text(diagnosis);
}

TEST(Remedy, KnowsWhichOpsAutocastCastsDown) {
  const CastPolicy policy = CastPolicy::mezzo();
  std::set<std::string> by_policy, known;
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    const bool is_of_mezzo = op.name.starts_with("mezzo::");
    if (!is_of_mezzo && !op.name.starts_with("aten::")) continue;
    const std::string name = is_of_mezzo ? op.name : op.name.substr(6);
    const std::string whole = op.overload_name.empty() ? name : name + "." + op.overload_name;
    if (policy.rule(whole, at::kCPU) == CastRule::kLower) by_policy.insert(base_name(op.name));
    if (is_lowered(op.name)) known.insert(base_name(op.name));
  }
  EXPECT_EQ(known, by_policy);
}

TEST(Remedy, OfACountOfZeroIsAnother) {
  const at::Tensor w = at::ones({4}).set_requires_grad(true), count = at::zeros({}, at::kLong);
  const Diagnosis diagnosis = diagnosis_of({{"w", w}}, [&] { return (w * 0).sum() / count; });
  EXPECT_THAT(diagnosis.remedies, proved("aten::div kept within its domain")) << to_text(diagnosis);
}

TEST(Remedy, OfABadCheckpointCleansAllOfIt) {
  const at::Tensor a = at::full({2}, kNan).set_requires_grad(true),
                   b = at::full({2}, kNan).set_requires_grad(true);
  const Diagnosis diagnosis =
      diagnosis_of({{"a", a}, {"b", b}}, [&] { return (a + b).sum() + 1.0; });
  ASSERT_EQ(diagnosis.findings.size(), 1) << to_text(diagnosis);
  EXPECT_EQ(diagnosis.findings.front().note, "2 of 2 parameters are not finite");
  EXPECT_THAT(diagnosis.remedies, proved("zeros for what is not finite in a and 1 more"))
      << to_text(diagnosis);
}

}  // namespace
}  // namespace mezzo::numerics
