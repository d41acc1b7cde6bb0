// Which changes of a step are called its cure.

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/scope.h"
#include "mezzo/numerics/doctor.h"

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

}  // namespace
}  // namespace mezzo::numerics
