#include "mezzo/numerics/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "mezzo/base/scope.h"

namespace mezzo::numerics {
namespace {

TEST(Diagnose, NamesTheOpThatOverflowed) {
  const at::Tensor w = at::full({4, 4}, 3.0, at::kHalf).set_requires_grad(true);
  const at::Tensor x = at::ones({2, 4}, at::kHalf);
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.inputs = {{"x", x}};
  patient.step = [&] {
    at::Tensor h;
    {
      const Scope scope("blocks.1.act");
      h = at::matmul(x, w).exp();  // exp(12) = 162755
    }
    const at::Tensor loss = (h / h.sum()).to(at::kFloat).pow(2).sum();
    loss.backward();
    return loss;
  };
  const Diagnosis diagnosis = diagnose(patient);
  ASSERT_FALSE(diagnosis.findings.empty());
  const Finding& finding = diagnosis.findings.front();
  EXPECT_EQ(finding.op, "aten::exp");
  EXPECT_EQ(finding.module, "blocks.1.act");
  EXPECT_EQ(finding.direction, Direction::kForward);
  EXPECT_EQ(finding.cause, Cause::kOverflow);
  EXPECT_EQ(diagnosis.findings.size(), 1);
  EXPECT_TRUE(diagnosis.is_reproduced);
  ASSERT_FALSE(diagnosis.remedies.empty());
  EXPECT_TRUE(diagnosis.remedies.front().is_proved);
  EXPECT_FALSE(w.grad().defined());
}

}  // namespace
}  // namespace mezzo::numerics
