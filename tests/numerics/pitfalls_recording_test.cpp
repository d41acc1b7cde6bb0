// Where a recorder of ops goes wrong: failures that get lost, arguments that are gone, numbers of
// nodes, and its own footprints.

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_nested_tensor_from_tensor_list.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/library.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/base/error.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/range_probe.h"
#include "mezzo/numerics/recorder.h"
#include "mezzo/numerics/watch.h"
#include "tests/close.h"
#include "tests/numerics/watched.h"
#include "tests/testing.h"

namespace mezzo::numerics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- What fails, and what is gone

/// A tensor whose numbers nobody can look at.
at::Tensor locked() {
  const at::Tensor tensor = at::ones({4});
  tensor.storage().unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(
      "these numbers are locked");
  return tensor;
}

TEST(PitfallsOfRecording, WhatFailsInACallbackIsThrownWhenTheRecordingEnds) {
  const at::Tensor tensor = locked();
  Watch watch;
  EXPECT_TRUE(tensor.is_same_size(tensor));  // libtorch swallows it: the program goes on
  EXPECT_THROW_WITH(watch.report(), "before aten::is_same_size: these numbers are locked");
  EXPECT_FALSE(at::hasCallbacks());
}

TEST(PitfallsOfRecording, ATensorWithoutNumbersOfItsOwnIsCountedAndLeftOut) {
  const Diagnosis diagnosis = watched([] {
    const at::Tensor nested = at::_nested_tensor_from_tensor_list({at::ones({2}), at::ones({3})});
    nested.mul(2).add_(nested);
    at::zeros({2}).log().sum();
  });
  EXPECT_THAT(headlines(diagnosis),
              ::testing::ElementsAre("aten::log [fp32], forward: division by zero"));
  EXPECT_GE(diagnosis.unread, 3);
  EXPECT_THAT(to_text(diagnosis), ::testing::HasSubstr("not read: "));
}

// To find them is an op itself.
TEST(PitfallsOfRecording, TheNumbersOfASparseGradientAreReadByNoOpThatIsSeen) {
  const at::Tensor w = at::ones({4, 2}).set_requires_grad(true);
  Watch watch;
  at::embedding(w, at::ones({3}, at::kLong), -1, false, /*sparse=*/true).sum().backward();
  watch.name("the gradient", w.grad());
  {
    const at::NoGradGuard no_grad;
    w.sub_(w.grad().coalesce());
  }
  EXPECT_THAT(headlines(watch.report()), ::testing::IsEmpty());
}

TEST(PitfallsOfRecording, ADiagnosisThatFailsPutsEverythingBack) {
  const at::Tensor w = at::ones({4}), unnamed = at::ones({4}), tensor = locked();
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    w.add_(1);
    unnamed.add_(1);
    tensor.is_same_size(tensor);
    return at::ones({});
  };
  EXPECT_THROW_WITH(diagnose(patient), "these numbers are locked");
  EXPECT_BIT_EQUAL(w, at::ones({4}));
  EXPECT_BIT_EQUAL(unnamed, at::ones({4}));
}

TEST(PitfallsOfRecording, AnOpInPlaceIsJudgedByWhatItRead) {
  const at::Tensor x = half({4}, 1);
  const Finding finding = first_finding([&] { x.slice(0, 0, 2).mul_(12).exp_(); });
  EXPECT_EQ(finding.op, "aten::exp_");
  EXPECT_EQ(finding.operands.at(0).value, 12.0);
  EXPECT_DOUBLE_EQ(finding.exact.value(), std::exp(12.0));
}

TEST(PitfallsOfRecording, MemoryIsFreedWhenTheProgramLetsGoOfIt) {
  bool is_freed = false;
  std::vector<float> numbers(4, kInf);
  const Recorder recorder;
  {
    const at::Tensor x = at::from_blob(numbers.data(), {4}, [&](void*) { is_freed = true; });
    x.add(1).mul_(x);
    x.neg_();
    EXPECT_EQ(x.use_count(), 1);
    EXPECT_EQ(x.storage().use_count(), 1);
    EXPECT_FALSE(is_freed);
  }
  EXPECT_TRUE(is_freed);
}

std::vector<std::string>& names_of_ops() {
  static std::vector<std::string> names;
  return names;
}

/// The ops that somebody else sees.
std::vector<std::string> ops_of(const std::function<void()>& run) {
  names_of_ops().clear();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        names_of_ops().emplace_back(function.name());
        return nullptr;
      }));
  run();
  at::removeCallback(handle);
  return names_of_ops();
}

// Autograd takes over a gradient, and adds to one in place, only if nobody else holds it.
TEST(PitfallsOfRecording, TheStepHasNoOtherOpsForBeingWatched) {
  const auto branches = [] {
    const at::Tensor w = at::ones({4}).set_requires_grad(true), h = w * 2;
    (h * 3 + h * h + w.exp()).sum().backward();
  };
  const std::vector<std::string> plain = ops_of(branches);
  EXPECT_THAT(plain, ::testing::Contains("aten::add_"));
  const Watch watch;
  EXPECT_EQ(ops_of(branches), plain);
}

// ---- Which op, which node

/// y's gradient is `gradient` everywhere.
void backward(const at::Tensor& y, double gradient) {
  (y.to(at::kFloat) * gradient).sum().backward();
}

TEST(PitfallsOfRecording, ABirthInABackwardNodeIsThatOfAnOpWithinIt) {
  const Finding finding = first_finding([] {
    const Scope scope("norm");
    at::zeros({4}).set_requires_grad(true).sqrt().sum().backward();
  });
  EXPECT_EQ(headline(finding), "aten::div [fp32], backward of norm: division by zero");
  EXPECT_EQ(finding.node, "SqrtBackward0");
  EXPECT_EQ(finding.forward_op, "aten::sqrt");
}

// Autograd reduces it once the node's own function has returned.
TEST(PitfallsOfRecording, TheSumOfABroadcastGradientIsItsNodes) {
  const Finding finding = first_finding([] {
    const at::Tensor bias = half({4}, 0).set_requires_grad(true);
    at::Tensor y;
    {
      const Scope scope("bias");
      y = half({8, 4}, 1) + bias;
    }
    backward(y, 1e4);
  });
  EXPECT_EQ(headline(finding), "aten::sum [fp16], backward of bias: overflow");
  EXPECT_EQ(finding.node, "AddBackward0");
}

// Nor is the sum of two branches within any node's function.
TEST(PitfallsOfRecording, TheSumOfTwoBranchesGradientsIsPlacedAtTheNodeOfOne) {
  const Finding finding = first_finding([] {
    const at::Tensor h = half({4}, 1).set_requires_grad(true) * 1;
    at::Tensor y;
    {
      const Scope scope("fork");
      y = h.neg().to(at::kFloat) + h.neg().to(at::kFloat);
    }
    backward(y, 4e4);
  });
  EXPECT_EQ(headline(finding), "aten::add_ [fp16], backward of fork: overflow");
  EXPECT_EQ(finding.node, "NegBackward0");
  EXPECT_EQ(finding.exact, -8e4);
}

TEST(PitfallsOfRecording, ANodeIsTheInnerOpsThatMadeItAndNotTheCompositesAround) {
  using Layer = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;
  const std::map<std::string, Layer> layers = {
      {"aten::addmm", [](const auto& x, const auto& w) { return at::linear(x, w, half({4}, 0)); }},
      {"aten::mm", [](const auto& x, const auto& w) { return at::matmul(x, w); }}};
  for (const auto& [inner, layer] : layers) {
    const Finding finding = first_finding([&layer] {
      const at::Tensor x = half({2, 4}, 1).set_requires_grad(true);
      at::Tensor y;
      {
        const Scope scope("fc");
        y = layer(x, half({4, 4}, 100).set_requires_grad(true));
      }
      backward(y, 1e3);  // 4e5 for x
    });
    EXPECT_EQ(headline(finding), "aten::mm [fp16], backward of fc: overflow") << inner;
    EXPECT_EQ(finding.forward_op, inner);
  }
}

TEST(PitfallsOfRecording, ABackwardPassThatRecordsGradientsIsNoCheckpoints) {
  const Finding finding = first_finding([] {
    const Scope scope("train");
    const at::Tensor w = at::zeros({4}).set_requires_grad(true);
    at::Tensor y;
    {
      const Scope part("norm");
      y = w.sqrt();
    }
    const at::Tensor gradient =
        torch::autograd::grad({y.sum()}, {w}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0];
    gradient.square().sum().backward();
  });
  EXPECT_EQ(headline(finding), "aten::div [fp32], backward of train.norm: division by zero");
  EXPECT_EQ(finding.forward_op, "aten::sqrt");
}

// Its number is that of the next op that does.
TEST(PitfallsOfRecording, AnOpThatRecordsNoGradientTakesNobodysNode) {
  const auto without_gradient = [] {
    const Scope scope("metrics");
    at::ones({4}).exp();
    const at::NoGradGuard no_grad;
    at::ones({4}).set_requires_grad(true).cos();
  };
  const Finding finding = first_finding([&] {
    at::Tensor y = at::zeros({4}).set_requires_grad(true);
    without_gradient();
    {
      const Scope scope("norm");
      y = y.sqrt();
    }
    without_gradient();
    y.sum().backward();
  });
  EXPECT_EQ(finding.module, "norm");
  EXPECT_EQ(finding.forward_op, "aten::sqrt");
}

// The node that accumulates has no number.
TEST(PitfallsOfRecording, AGradientThatOverflowsAsItIsAddedUpIsItsParameters) {
  const at::Tensor w = half({4}, 1).set_requires_grad(true);
  Patient patient;
  patient.parameters = {{"fc.weight", w}};
  patient.step = [&w] {
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) backward(w * half({4}, 1), 4e4);
    return at::ones({});
  };
  const Finding finding = diagnose(patient, {.tries_remedies = false}).findings.at(0);
  EXPECT_EQ(finding.node, "torch::autograd::AccumulateGrad");
  EXPECT_EQ(finding.parameter, "fc.weight");
  EXPECT_EQ(finding.micro_batch, 2);
}

// ---- What an op reads

using Use = std::function<void(at::Tensor)>;

/// Whether it reads what was in its argument.
bool reads(const Use& use) {
  const at::Tensor stale = at::full({4}, kNan);
  Recorder recorder;
  use(stale);
  recorder.finish();
  return !recorder.trace().externals.empty();
}

TEST(PitfallsOfRecording, WhatAnOpOnlyOverwritesIsNotWhatItReads) {
  const at::Tensor ones = at::ones({4});
  const std::map<std::string, Use> overwriting = {
      {"zero_", [](at::Tensor x) { x.zero_(); }},
      {"fill_", [](at::Tensor x) { x.fill_(1); }},
      {"copy_", [&](at::Tensor x) { x.copy_(ones); }},
      {"normal_", [](at::Tensor x) { x.normal_(); }},
      {"uniform_", [](at::Tensor x) { x.uniform_(); }},
      {"bernoulli_", [](at::Tensor x) { x.bernoulli_(0.5); }},
      {"mul out", [&](at::Tensor x) { at::mul_out(x, ones, ones); }},
      {"full out", [](at::Tensor x) { at::full_out(x, {4}, 1); }},
      {"ones_like", [](at::Tensor x) { at::ones_like(x); }},
      {"new_zeros", [](at::Tensor x) { x.new_zeros({4}); }}};
  for (const auto& [name, use] : overwriting) EXPECT_FALSE(reads(use)) << name;
  const std::map<std::string, Use> reading = {
      {"mul_", [](at::Tensor x) { x.mul_(0); }},
      {"masked_fill_", [](at::Tensor x) { x.masked_fill_(at::ones({4}, at::kBool), 1); }},
      {"mul out of itself", [&](at::Tensor x) { at::mul_out(x, ones, x); }}};
  for (const auto& [name, use] : reading) EXPECT_TRUE(reads(use)) << name;
}

TEST(PitfallsOfRecording, StaleGarbageIsNotTheCauseOfWhatOverwritesIt) {
  const at::Tensor stale = at::full({4}, kNan);
  const Finding finding = first_finding([&] {
    stale.copy_(at::zeros({4}).log());
    stale.sum();
  });
  EXPECT_EQ(finding.op, "aten::log");
  EXPECT_TRUE(finding.external.empty());
}

// ---- Footprints

/// All that a step leaves, and what it finds its thread to be like at its end.
struct Left {
  at::Tensor loss, gradient, random;
  bool has_grad_mode, is_autocast;
  at::ScalarType autocast_dtype;
};

Left autocast_step() {
  at::manual_seed(7);
  const at::Tensor w = at::full({8, 8}, 0.3).set_requires_grad(true);
  const Autocast autocast(at::kCPU, at::kBFloat16);
  const Scope scope("fc");
  const at::Tensor h = at::linear(at::dropout(at::ones({4, 8}), 0.5, true), w);
  const at::Tensor loss = at::linear(h, w).to(at::kFloat).pow(2).mean();
  loss.backward();
  return {loss.detach(),
          w.grad(),
          at::detail::getDefaultCPUGenerator().get_state(),
          at::GradMode::is_enabled(),
          at::autocast::is_autocast_enabled(at::kCPU),
          at::autocast::get_autocast_dtype(at::kCPU)};
}

void expect_same(const Left& left, const Left& plain) {
  EXPECT_BIT_EQUAL(left.loss, plain.loss);
  EXPECT_BIT_EQUAL(left.gradient, plain.gradient);
  EXPECT_BIT_EQUAL(left.random, plain.random);
  EXPECT_EQ(left.has_grad_mode, plain.has_grad_mode);
  EXPECT_EQ(left.is_autocast, plain.is_autocast);
  EXPECT_EQ(left.autocast_dtype, plain.autocast_dtype);
}

TEST(PitfallsOfRecording, AStepThatIsLookedAtIsBitForBitTheSame) {
  const Left plain = autocast_step();
  {
    const Watch watch;
    expect_same(autocast_step(), plain);
  }
  {
    const RangeProbe probe;
    expect_same(autocast_step(), plain);
  }
  Left diagnosed;
  Patient patient;
  patient.step = [&diagnosed] {
    diagnosed = autocast_step();
    return diagnosed.loss;
  };
  EXPECT_TRUE(diagnose(patient).is_healthy());
  expect_same(diagnosed, plain);
}

// ---- The dispatch key on which remedies are tried

bool goes_through_remedies() {
  return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::DeferredInit);
}

TEST(PitfallsOfRecording, TheKeyOfTheRemediesIsOffOutsideThem) {
  const at::Tensor w = half({4, 4}, kOverflows).set_requires_grad(true);
  int tried = 0;
  Patient patient;
  patient.parameters = {{"w", w}};
  patient.step = [&] {
    if (goes_through_remedies() && ++tried == 1) throw std::runtime_error("no such remedy");
    const at::Tensor loss = at::matmul(half({2, 4}, 1), w).exp().to(at::kFloat).sum();
    loss.backward();
    return loss;
  };
  diagnose(patient);
  EXPECT_GT(tried, 1);
  EXPECT_FALSE(goes_through_remedies());
}

void pass_on(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  op.redispatchBoxed(
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::DeferredInit),
      stack);
}

std::unique_ptr<torch::Library> take_key() {
  auto library = std::make_unique<torch::Library>(
      torch::Library::IMPL, "_", c10::DispatchKey::DeferredInit, __FILE__, __LINE__);
  library->fallback(torch::CppFunction::makeFromBoxedFunction<&pass_on>());
  return library;
}

// Where another library has the key: alone in its process, as a key is taken for good.
void diagnose_beside_another_owner() {
  const std::unique_ptr<torch::Library> other = take_key();
  const at::Tensor w = half({4, 4}, kOverflows).set_requires_grad(true);
  const Patient patient{[&w] {
                          const at::Tensor h = at::matmul(half({2, 4}, 1), w).exp().sum();
                          h.backward();
                          return h;
                        },
                        {{"w", w}},
                        {},
                        {}};
  const Diagnosis untried = diagnose(patient, {.tries_remedies = false});
  EXPECT_EQ(untried.findings.at(0).op, "aten::exp");
  EXPECT_THROW_WITH(diagnose(patient), "another library (torchdistX?) has taken the dispatch key");
  std::exit(::testing::Test::HasFailure() ? 1 : 0);
}

TEST(PitfallsOfRecordingDeathTest, AKeyThatAnotherLibraryHasTakenIsRefusedByName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(diagnose_beside_another_owner(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace mezzo::numerics
