#include "mezzo/amp/cast_policy.h"

#include <thread>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/base/check.h"
#include "mezzo/base/scope.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

at::ScalarType dtype_of_mm() { return at::mm(at::ones({4, 4}), at::ones({4, 4})).scalar_type(); }
at::ScalarType dtype_of_softmax() {
  return at::softmax(at::ones({4}, at::kBFloat16), 0).scalar_type();
}

TEST(CastPolicy, MezzosIsInForceInARegionThatNamesNone) {
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(dtype_of_softmax(), at::kFloat);  // libtorch's list for the CPU leaves it in bf16
}

TEST(CastPolicy, GuardNamesAnother) {
  const CastPolicyGuard guard(CastPolicy::pytorch_cpu());
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(dtype_of_softmax(), at::kBFloat16);
}

TEST(CastPolicy, GuardsNestAndRestoreWhatWasThere) {
  const Autocast autocast(at::kCPU, at::kBFloat16);
  {
    const CastPolicyGuard outer(CastPolicy::mezzo().set("mm", CastRule::kFp32));
    EXPECT_EQ(dtype_of_mm(), at::kFloat);
    {
      const CastPolicyGuard inner(CastPolicy::current().set("softmax", CastRule::kPass));
      EXPECT_EQ(dtype_of_mm(), at::kFloat);
      EXPECT_EQ(dtype_of_softmax(), at::kBFloat16);
    }
    EXPECT_EQ(dtype_of_softmax(), at::kFloat);
  }
  EXPECT_EQ(dtype_of_mm(), at::kBFloat16);
}

TEST(CastPolicy, RuleHoldsInItsScopeAndWithin) {
  const CastPolicyGuard guard(CastPolicy::mezzo().set("mm", CastRule::kFp32, "blocks.*.attn"));
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(dtype_of_mm(), at::kBFloat16);
  const Scope block("blocks.3");
  EXPECT_EQ(dtype_of_mm(), at::kBFloat16);
  {
    const Scope attention("attn");
    EXPECT_EQ(dtype_of_mm(), at::kFloat);
    const Scope within("scores");
    EXPECT_EQ(dtype_of_mm(), at::kFloat);
  }
  const Scope mlp("mlp");
  EXPECT_EQ(dtype_of_mm(), at::kBFloat16);
}

TEST(CastPolicy, RulesThatNoOpHasMetAreNamed) {
  CastPolicy policy = CastPolicy::mezzo();
  policy.set_rules("mm=lower, bmm=banned, head:mm=fp32, blocks.*.attn:softmax=fp32");
  const CastPolicyGuard guard(policy);
  const Autocast autocast(at::kCPU, at::kBFloat16);
  dtype_of_mm();
  EXPECT_THAT(unmet_cast_rules(),
              ::testing::ElementsAre("blocks.*.attn:softmax=fp32", "bmm=banned", "head:mm=fp32"));
  const Scope attention("blocks.3.attn");
  dtype_of_softmax();
  EXPECT_THAT(unmet_cast_rules(), ::testing::ElementsAre("bmm=banned", "head:mm=fp32"));
}

TEST(CastPolicy, ALaterRuleWins) {
  CastPolicy policy = CastPolicy::mezzo();
  policy.set("mm", CastRule::kFp32).set("mm", CastRule::kLower, "head");
  EXPECT_EQ(policy.rule("mm", at::kCPU), CastRule::kFp32);
  EXPECT_EQ(policy.rule("mm", at::kCPU, "head"), CastRule::kLower);
}

TEST(CastPolicy, ANameWithoutOverloadIsAllThatReturnNewTensors) {
  CastPolicy policy = CastPolicy::pytorch_cpu();
  policy.set("sum", CastRule::kFp32SetDtype);
  EXPECT_EQ(policy.rule("sum", at::kCPU), CastRule::kFp32SetDtype);
  EXPECT_EQ(policy.rule("sum.dim_IntList", at::kCPU), CastRule::kFp32SetDtype);
  EXPECT_EQ(policy.rule("sum.out", at::kCPU), std::nullopt);
}

TEST(CastPolicy, BelongsToItsThread) {
  const CastPolicyGuard guard(CastPolicy::mezzo().set("mm", CastRule::kFp32));
  at::ScalarType elsewhere = at::kFloat;
  std::thread([&] {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    elsewhere = dtype_of_mm();
  }).join();
  EXPECT_EQ(elsewhere, at::kBFloat16);
}

TEST(CastPolicy, IsLookedUpForEachTypeOfDevice) {
  const at::Tensor x = at::ones({2, 3}, at::kBFloat16);
  const auto dtype_of_batch_norm = [&] {
    return at::batch_norm(x, {}, {}, {}, {}, /*training=*/true, 0.1, 1e-5, /*cudnn_enabled=*/false)
        .scalar_type();
  };
  const Autocast on_gpu(at::kCUDA, at::kBFloat16), on_cpu(at::kCPU, at::kBFloat16);
  {
    // As a GPU's tensors are dispatched, on whose list it is not.
    const c10::impl::ExcludeDispatchKeyGuard no_cpu(c10::DispatchKey::AutocastCPU);
    const c10::impl::IncludeDispatchKeyGuard gpu(c10::DispatchKey::AutocastCUDA);
    EXPECT_EQ(dtype_of_batch_norm(), at::kBFloat16);
  }
  EXPECT_EQ(dtype_of_batch_norm(), at::kFloat);
}

TEST(CastPolicy, ReadsRulesFromText) {
  CastPolicy policy = CastPolicy::mezzo();
  policy.set_rules(" softmax.int = lower, blocks.*.attn:mm=fp32 ,, ");
  EXPECT_EQ(policy.rule("softmax.int", at::kCPU), CastRule::kLower);
  EXPECT_EQ(policy.rule("mm", at::kCPU, "blocks.0.attn"), CastRule::kFp32);
  EXPECT_EQ(policy.rule("mm", at::kCPU), CastRule::kLower);
}

TEST(CastPolicy, RefusesTextThatIsNoRule) {
  EXPECT_THROW_WITH(CastPolicy::mezzo().set_rules("mm"), "must read [scope:]op=rule");
  EXPECT_THROW_WITH(CastPolicy::mezzo().set_rules("mm=fp23"), "did you mean 'fp32'");
}

TEST(CastPolicy, RefusesAnOpThatLibtorchDoesNotKnow) {
  EXPECT_THROW_WITH(CastPolicy::mezzo().set("sotfmax", CastRule::kFp32), "did you mean 'softmax'");
}

TEST(CastPolicy, RefusesAnyTextThatCannotWorkAsAWrongWord) {
  for (const char* rules : {"mm", "mm=fp23", "sotfmax=fp32", "add_=fp32", "add_.Tensor=fp32"})
    EXPECT_THROW(CastPolicy::mezzo().set_rules(rules), UsageError) << rules;
}

TEST(CastPolicy, AsksForTheOverloadOfAnOpThatOnlyWritesIntoArguments) {
  EXPECT_THROW_WITH(CastPolicy::mezzo().set("add_", CastRule::kBanned), "Hint: name one");
  CastPolicy::mezzo().set("add_.Tensor", CastRule::kBanned);
}

TEST(CastPolicy, RefusesARuleThatTheOpCannotTake) {
  CastPolicy policy = CastPolicy::mezzo();
  EXPECT_THROW_WITH(policy.set("add_.Tensor", CastRule::kFp32), "writes into an argument");
  EXPECT_THROW_WITH(policy.set("mm", CastRule::kFp32SetDtype), "no argument dtype");
  EXPECT_THROW_WITH(policy.set("mm", CastRule::kFp32AppendDtype), "no overload with a dtype");
  EXPECT_THROW_WITH(policy.set("arange.start", CastRule::kFp32), "no tensor argument");
  EXPECT_TRUE(policy.overrides().empty());
}

TEST(CastPolicy, RefusesAnUnknownPreset) {
  EXPECT_THROW_WITH(CastPolicy::preset("pytorch-gpu"), "must be one of mezzo, pytorch-cuda");
}

TEST(CastPolicy, ABannedOpSaysWhatToUseInstead) {
  const at::Tensor p = at::full({4}, 0.5), y = at::ones({4});
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_THROW_WITH(at::binary_cross_entropy(p, y), "use binary_cross_entropy_with_logits");
  const CastPolicyGuard guard(CastPolicy::mezzo().set("binary_cross_entropy", CastRule::kFp32));
  EXPECT_EQ(at::binary_cross_entropy(p.to(at::kBFloat16), y).scalar_type(), at::kFloat);
}

TEST(CastPolicy, PromotesFp16BesideBf16ToFp32) {
  const at::Tensor a = at::ones({4}, at::kHalf), b = at::ones({4}, at::kBFloat16);
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_EQ(at::dot(a, b).scalar_type(), at::kFloat);
}

TEST(CastPolicy, LeavesFp64Alone) {
  const Autocast autocast(at::kCPU, at::kBFloat16);
  const at::Tensor x = at::ones({4, 4}, at::kDouble);
  EXPECT_EQ(at::mm(x, x).scalar_type(), at::kDouble);
  EXPECT_EQ(at::softmax(x, 0).scalar_type(), at::kDouble);
}

// A user's op, with an autocast kernel of its own that runs it in fp16.
at::Tensor twice(const at::Tensor& x) { return x + x; }
at::Tensor twice_in_fp16(const at::Tensor& x) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mezzo_test::twice", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(x.to(at::kHalf));
}
TORCH_LIBRARY(mezzo_test, library) {
  library.def("twice(Tensor x) -> Tensor", &twice);
  library.def("thrice(Tensor x) -> Tensor", [](const at::Tensor& x) { return x + x + x; });
}
TORCH_LIBRARY_IMPL(mezzo_test, AutocastCPU, library) { library.impl("twice", &twice_in_fp16); }

at::ScalarType dtype_of(const char* op) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(op, "")
      .typed<at::Tensor(const at::Tensor&)>()
      .call(at::ones({4}, at::kBFloat16))
      .scalar_type();
}

TEST(CastPolicy, GivesACustomOpARule) {
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(dtype_of("mezzo_test::thrice"), at::kBFloat16);
  {
    const CastPolicyGuard guard(CastPolicy::mezzo().set("mezzo_test::thrice", CastRule::kFp32));
    EXPECT_EQ(dtype_of("mezzo_test::thrice"), at::kFloat);
  }
  EXPECT_EQ(dtype_of("mezzo_test::thrice"), at::kBFloat16);
}

TEST(CastPolicy, LeavesAnExtensionsOwnAutocastKernelInPlace) {
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(dtype_of("mezzo_test::twice"), at::kHalf);
  {
    const CastPolicyGuard guard(CastPolicy::mezzo().set("mezzo_test::twice", CastRule::kFp32));
    EXPECT_EQ(dtype_of("mezzo_test::twice"), at::kFloat);
  }
  EXPECT_EQ(dtype_of("mezzo_test::twice"), at::kHalf);
}

TEST(CastPolicy, LeavesLibtorchsOwnRegionsAsTheyWere) {
  { const Autocast installs_the_kernels(at::kCPU); }
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::ScalarType softmax = dtype_of_softmax(), mm = dtype_of_mm();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(softmax, at::kBFloat16);
  EXPECT_EQ(mm, at::kBFloat16);
}

}  // namespace
}  // namespace mezzo
