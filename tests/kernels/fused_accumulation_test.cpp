#include "mezzo/kernels/fused_linear/fused_accumulation.h"

#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/kernels/fused_linear/gelu_linear.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "mezzo/kernels/matmul/tiled.h"
#include "tests/close.h"
#include "tests/kernels/product.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;
using product::error_bound;

const Random random(1);

constexpr int64_t kTokens = 96, kIn = 128, kOut = 384;

struct Batch {
  at::Tensor x = random({kTokens, kIn}, at::kBFloat16),
             grad = random({kTokens, kOut}, at::kBFloat16);
};

at::Tensor fp32_summed_weight() {
  at::Tensor weight = random({kOut, kIn}, at::kBFloat16).requires_grad_();
  weight.set_grad_dtype(at::kFloat);
  return weight;
}

void backward(const at::Tensor& weight, const Batch& batch) {
  gelu_linear(batch.x, weight, std::nullopt, /*recompute=*/true).backward(batch.grad);
}

/// Whether a batch's product is there by itself, in bf16: libtorch's, which serves where the CPU's
/// own tiles (AMX) make it the fastest.
bool rounds_products() {
  return !widens(at::kBFloat16) && !tiled::process_refusal(at::kBFloat16).empty();
}

// The bound of fp32 sums: one rounding of a batch's product to bf16 would be far outside.
TEST(FusedAccumulation, SumsTheGradientsOfBatchesInFp32AllTheWay) {
  if (rounds_products()) GTEST_SKIP() << "libtorch multiplies bf16 here, and rounds";
  const at::Tensor weight = fp32_summed_weight();
  const std::vector<Batch> batches(3);
  at::Tensor exact = at::zeros({kOut, kIn}, at::kDouble), magnitude = exact.clone();
  for (const Batch& batch : batches) {
    {
      const FusedAccumulation accumulation;
      backward(weight, batch);
    }
    const at::Tensor grad = batch.grad.to(at::kDouble).t(), in = tanh_gelu(batch.x).to(at::kDouble);
    exact += at::mm(grad, in);
    magnitude += at::mm(grad.abs(), in.abs());
  }
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  const at::Tensor bound =
      error_bound(exact, magnitude, static_cast<int64_t>(batches.size()) * kTokens, at::kFloat);
  EXPECT_TRUE(is_within(weight.grad(), exact, bound));

  const at::Tensor rounded = fp32_summed_weight();
  for (const Batch& batch : batches) backward(rounded, batch);
  EXPECT_FALSE(is_within(rounded.grad(), exact, bound));
}

TEST(FusedAccumulation, EndsWithItsScope) {
  const at::Tensor weight = fp32_summed_weight(), plain = weight.detach().clone().requires_grad_();
  plain.set_grad_dtype(at::kFloat);
  const Batch batch;
  { const FusedAccumulation accumulation; }
  backward(weight, batch);
  backward(plain, batch);
  EXPECT_BIT_EQUAL(weight.grad(), plain.grad());
}

// Hooks are to see the gradient of each batch, which the fused sum never has.
TEST(FusedAccumulation, LeavesAWeightWithHooksToAutograd) {
  const at::Tensor weight = fp32_summed_weight();
  int calls = 0;
  weight.register_hook([&](const at::Tensor& grad) { return ++calls, grad; });
  const FusedAccumulation accumulation;
  backward(weight, {});
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(weight.grad().defined());
}

TEST(FusedAccumulation, LeavesAWeightOf16BitGradientsAndOneThatIsNoLeafToAutograd) {
  const at::Tensor weight = random({kOut, kIn}, at::kBFloat16).requires_grad_(),
                   source = random({kOut, kIn}, at::kFloat).requires_grad_();
  const FusedAccumulation accumulation;
  backward(weight, {});
  EXPECT_EQ(weight.grad().scalar_type(), at::kBFloat16);
  backward(source.to(at::kBFloat16), {});  // what autocast does with an fp32 weight
  EXPECT_TRUE(source.grad().defined());
}

TEST(FusedAccumulation, IsSeenByThoseWhoWatchOps) {
  static std::vector<std::string> seen;
  seen.clear();
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& op) -> std::unique_ptr<at::ObserverContext> {
        seen.emplace_back(op.name());
        return nullptr;
      }));
  const FusedAccumulation accumulation;
  backward(fp32_summed_weight(), {});
  at::removeCallback(handle);
  EXPECT_THAT(seen, ::testing::Contains("mezzo::add_mm_"));
}

}  // namespace
}  // namespace mezzo::kernels
