#include "mezzo/numerics/range_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>

#include "mezzo/base/error.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/watch.h"
#include "tests/testing.h"

namespace mezzo::numerics {
namespace {

const ModuleRanges& of(const std::vector<ModuleRanges>& modules, const std::string& path) {
  for (const ModuleRanges& module : modules) {
    if (module.module == path) return module;
  }
  throw std::out_of_range(path);
}

// x [2, 4] of ones times 4 rows of threes: 12 in every element.
at::Tensor twelve(const at::Tensor& w) {
  const Scope scope("fc");
  return at::linear(at::ones({2, 4}, w.options().requires_grad(false)), w);
}

TEST(RangeProbe, ReadsEachResultOnceAndNamesItsPart) {
  const at::Tensor w = at::full({8, 4}, 3.0, at::kHalf).set_requires_grad(true);
  RangeProbe probe;
  at::Tensor loss;
  {
    const at::Tensor h = twelve(w);
    const Scope scope("head");
    loss = h.to(at::kFloat).mul(2.0).sum();
  }
  loss.backward();
  const auto modules = probe.take();
  ASSERT_EQ(modules.size(), 2);
  EXPECT_EQ(modules[0].module, "fc");
  const Range& fc = modules[0].activations;
  EXPECT_EQ(fc.magnitudes.values, 16) << "linear's result, not its inner op's a second time";
  EXPECT_EQ(fc.magnitudes.largest, 12.0);
  EXPECT_EQ(fc.magnitudes.rms(), 12.0);
  EXPECT_EQ(fc.dtype, at::kHalf);
  EXPECT_DOUBLE_EQ(fc.headroom_bits, std::log2(65504.0 / 12.0));
  // The gradient of the loss is 2 at each of 16 elements, that of w 4 of... 2 rows: 2 * 2.
  EXPECT_EQ(modules[0].gradients.magnitudes.largest, 4.0);
  EXPECT_EQ(of(modules, "head").gradients.magnitudes.largest, 2.0);
  EXPECT_EQ(of(modules, "head").activations.magnitudes.largest, 2.0 * 12 * 16);
}

TEST(RangeProbe, HeadroomIsThatOfTheTightestDtype) {
  RangeProbe probe;
  {
    const Scope scope("part");
    at::full({4}, 1e6, at::kFloat).mul(2.0);
    at::full({4}, 1e3, at::kHalf).mul(2.0);
  }
  const auto modules = probe.take();
  EXPECT_EQ(modules.at(0).activations.dtype, at::kHalf);
  EXPECT_DOUBLE_EQ(modules.at(0).activations.headroom_bits, std::log2(65504.0 / 2000.0));
  EXPECT_EQ(modules.at(0).activations.magnitudes.largest, 2e6);
}

TEST(RangeProbe, LeavesOutCopiesOfParametersViewsAndWhatNobodyHasComputed) {
  const at::Tensor w = at::full({4}, 1e30).set_requires_grad(true);
  RangeProbe probe;
  {
    const Scope scope("part");
    w.to(at::kBFloat16).view({2, 2});
    at::empty({4});
    at::ones({0}).resize_({1000});
    at::full({4}, -INFINITY).view({2, 2}).t();
    at::ones({4}).neg();
  }
  const auto modules = probe.take();
  EXPECT_EQ(of(modules, "part").activations.magnitudes.largest, 1.0);
  EXPECT_EQ(of(modules, "part").activations.magnitudes.values, 4);
  EXPECT_EQ(of(modules, "part").activations.magnitudes.nonfinite, 0);
}

TEST(RangeProbe, ByOpTellsTheOpsOfAPartApartForwardAndBackward) {
  const at::Tensor w = at::full({4, 4}, 3.0).set_requires_grad(true);
  RangeProbe probe(RangeProbe::Detail::kByOp);
  at::Tensor loss;
  {
    const Scope scope("fc");
    loss = at::linear(at::ones({2, 4}), w).mul(at::full({}, 5.0)).sum();
  }
  loss.backward();
  const auto modules = probe.take();
  const auto of_op = [&](const std::string& op) {
    for (const ModuleRanges& module : modules) {
      if (module.op == op && module.module == "fc") return module;
    }
    throw std::out_of_range(op);
  };
  EXPECT_EQ(of_op("aten::linear").activations.magnitudes.largest, 12.0);
  EXPECT_EQ(of_op("aten::linear").gradients.magnitudes.largest, 10.0);  // 2 rows of 5
  EXPECT_EQ(of_op("aten::mul.Tensor").activations.magnitudes.largest, 60.0);
  EXPECT_EQ(of_op("aten::mul.Tensor").gradients.magnitudes.largest, 5.0);
}

TEST(RangeProbe, SaysNothingOfOpsOutsideAnyScope) {
  RangeProbe probe;
  at::ones({4}).mul(2.0);
  EXPECT_TRUE(probe.take().empty());
}

TEST(RangeProbe, IsRefusedASecondTimeAndGoneWhenItDies) {
  {
    RangeProbe probe;
    EXPECT_THROW_WITH(RangeProbe(), "one RangeProbe at a time");
    const Scope scope("part");
    at::ones({4}).mul(2.0);
    EXPECT_EQ(probe.take().size(), 1);
  }
  EXPECT_FALSE(at::hasCallbacks());
}

TEST(RangeProbe, LivesAndDiesBesideAWatchThatGoesOn) {
  Watch watch;
  { const RangeProbe probe; }
  const at::Tensor x = at::full({4}, 0.0).set_requires_grad(true);
  at::Tensor y;
  {
    const Scope scope("norm");
    y = x.sqrt();
  }
  y.sum().backward();
  EXPECT_EQ(watch.report().findings.at(0).module, "norm");
}

TEST(RangeProbe, AnOpThatThrowsIsLeftOut) {
  RangeProbe probe;
  {
    const Scope scope("part");
    EXPECT_ANY_THROW(at::ones({2, 3}).mm(at::ones({2, 3})));
    at::ones({4}).mul(2.0);
  }
  EXPECT_EQ(of(probe.take(), "part").activations.magnitudes.largest, 2.0);
}

}  // namespace
}  // namespace mezzo::numerics
