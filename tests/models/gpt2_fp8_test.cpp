// A model whose inner blocks multiply in FP8, emulated on the CPU.
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/format.h>

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/memory.h"
#include "mezzo/models/gpt2.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using kernels::Fp8Scaling;
using mezzo::testing::is_bit_equal;
using mezzo::testing::magnitude_of;

constexpr int64_t kB = 2, kT = 16;
const Fp8Scaling kCurrent{}, kDelayed{.is_delayed = true, .history = 4};

ModelConfig small() {
  return {.layers = 4, .heads = 2, .width = 32, .context = kT, .vocab_size = 64};
}

/// Windows of one text, each another by `shift`.
at::Tensor text(int64_t shift, int64_t T = kT) {
  return (at::arange(kB * T).mul(7) + 3 * shift).remainder(64).view({kB, T});
}

struct Pass {
  at::Tensor loss;
  std::map<std::string, at::Tensor> grads;
};

Pass pass(GPT2& model, int64_t shift = 0, int64_t T = kT) {
  model->zero_grad();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    loss = model->loss(text(shift, T), text(shift + 1, T));
  }
  loss.backward();
  Pass result{loss.detach(), {}};
  for (const auto& item : model->named_parameters())
    result.grads[item.key()] = item.value().grad().clone();
  return result;
}

at::Tensor logits(GPT2& model, int64_t T = kT) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(at::kCPU, at::kBFloat16);
  return model(text(0, T)).to(at::kFloat);
}

void expect_same_bits(const Pass& a, const Pass& b) {
  EXPECT_BIT_EQUAL(a.loss, b.loss);
  for (const auto& [name, grad] : a.grads) EXPECT_BIT_EQUAL(b.grads.at(name), grad) << name;
}

void expect_same_bits(const std::map<std::string, at::Tensor>& a,
                      const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_BIT_EQUAL(b.at(name), tensor) << name;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

// What casts remember is what was cast.
TEST(GPT2Fp8, TheLinearLayersBetweenTheFirstAndTheLastBlockAloneAreCast) {
  std::vector<std::string> expected;
  for (const char* block : {"h.1", "h.2"})
    for (const char* layer : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"})
      for (const char* kind : {"grad", "weight", "x"})
        expected.push_back(fmt::format("{}.{}.{}", block, layer, kind));
  for (const bool is_fused : {true, false}) {
    GPT2 model(small());
    model->set_fp8(kDelayed);
    model->set_fused(is_fused);
    EXPECT_TRUE(model->fp8_histories().empty());
    pass(model);
    std::vector<std::string> names;
    for (const auto& [name, history] : model->fp8_histories()) {
      names.push_back(name);
      EXPECT_EQ(history.numel(), kDelayed.history + 1);
    }
    EXPECT_EQ(names, expected);
  }
}

// A rounding is off by u at most, and by u / sqrt(3) in the mean square of a uniform error; errors
// of different numbers are independent and add in squares. P products, one after another, each of
// two operands that are cast, so end at sqrt(P (u_a^2 + u_b^2) / 3) relative to the norm, where
// every one of them weighs as much as the whole: residual streams only lessen that.
double error_after(int64_t products, const FloatFormat& a, const FloatFormat& b) {
  const double u_a = a.epsilon / 2, u_b = b.epsilon / 2;
  return std::sqrt(static_cast<double>(products) * (u_a * u_a + u_b * u_b) / 3);
}

constexpr int64_t kForward = 2 * 4, kBackward = 2 * kForward;  // products of two blocks in FP8

TEST(GPT2Fp8, LogitsAndLossAreThoseOfBf16UpToTheCasts) {
  GPT2 model(small());
  const at::Tensor plain = logits(model);
  const double loss = pass(model).loss.item<double>();
  model->set_fp8(kCurrent);
  const at::Tensor got = logits(model);
  EXPECT_LT(distance(got, plain), error_after(kForward, kFp8E4M3, kFp8E4M3));
  EXPECT_GT(distance(got, plain), float_format(at::kBFloat16).epsilon) << "was it FP8 at all?";
  // log softmax moves by twice the largest change of a logit at most.
  EXPECT_NEAR(pass(model).loss.item<double>(), loss, 2 * magnitude_of(got - plain) + loss * 0x1p-8);
}

TEST(GPT2Fp8, GradientsAreThoseOfBf16UpToTheCasts) {
  for (const Fp8Scaling& scaling : {kCurrent, kDelayed}) {
    GPT2 model(small());
    const Pass plain = pass(model);
    model->set_fp8(scaling);
    const Pass got = pass(model);
    for (const auto& [name, grad] : plain.grads) {
      EXPECT_EQ(got.grads.at(name).scalar_type(), at::kFloat);
      EXPECT_LT(distance(got.grads.at(name), grad),
                error_after(kForward + kBackward, kFp8E4M3, kFp8E5M2))
          << name;
    }
    EXPECT_GT(distance(got.grads.at("h.1.mlp.c_fc.weight"), plain.grads.at("h.1.mlp.c_fc.weight")),
              kFp8E4M3.epsilon / 4)
        << "was it FP8 at all?";
  }
}

TEST(GPT2Fp8, EveryLevelOfRecomputationGivesTheSameBitsAndHistories) {
  for (const Fp8Scaling& scaling : {kCurrent, kDelayed}) {
    const auto run = [&](Recompute level) {
      GPT2 model(small(), 3);
      model->set_fp8(scaling);
      model->set_recompute(level, mezzo::checkpoint);
      std::vector<Pass> passes;
      for (int64_t shift = 0; shift < 3; ++shift) passes.push_back(pass(model, shift));
      return std::pair(passes, model->fp8_histories());
    };
    const auto [kept, histories] = run(Recompute::kNone);
    for (const Recompute level : {Recompute::kElementwise, Recompute::kLayer}) {
      const auto [again, histories_again] = run(level);
      for (size_t i = 0; i < kept.size(); ++i) expect_same_bits(again[i], kept[i]);
      expect_same_bits(histories_again, histories);
    }
  }
}

TEST(GPT2Fp8, AnEvaluationIsNotRemembered) {
  GPT2 model(small());
  model->set_fp8(kDelayed);
  pass(model);
  const auto before = model->fp8_histories();
  logits(model);
  expect_same_bits(model->fp8_histories(), before);
}

TEST(GPT2Fp8, ABatchThatFp8DoesNotTakeRunsInBf16) {
  GPT2 model(small());
  const at::Tensor plain = logits(model, 15);
  const Pass plain_pass = pass(model, 0, 15);
  model->set_fp8(kDelayed);
  EXPECT_BIT_EQUAL(logits(model, 15), plain);
  expect_same_bits(pass(model, 0, 15), plain_pass);
  EXPECT_TRUE(model->fp8_histories().empty());
}

TEST(GPT2Fp8, WithoutItTheModelIsAsBefore) {
  GPT2 model(small());
  const Pass plain = pass(model);
  model->set_fp8(kCurrent);
  EXPECT_FALSE(is_bit_equal(pass(model).loss, plain.loss));
  model->set_fp8(std::nullopt);
  expect_same_bits(pass(model), plain);
}

TEST(GPT2Fp8, HistoriesBringAPassBackBitForBit) {
  GPT2 model(small()), fresh(small());
  for (GPT2* each : {&model, &fresh}) (*each)->set_fp8(kDelayed);
  pass(model, 0);
  for (GPT2* each : {&model, &fresh}) {
    const at::NoGradGuard no_grad;  // too large for the scales of the pass before
    for (at::Tensor parameter : (*each)->parameters()) parameter.mul_(4.0);
  }
  const auto histories = model->fp8_histories();
  const Pass next = pass(model, 2);
  model->set_fp8_histories(histories);
  expect_same_bits(pass(model, 2), next);
  EXPECT_FALSE(is_bit_equal(pass(fresh, 2).loss, next.loss)) << "histories do matter";
  model->set_fp8_histories({});
  fresh->set_fp8_histories({});
  expect_same_bits(pass(model, 2), pass(fresh, 2));
}

// Beside the FP8 copies of the weights a block keeps a byte a number of what its attention gives,
// and nothing of its norms and GELU.
TEST(GPT2Fp8, KeepsHardlyMoreThanBf16ForTheBackwardPass) {
  const TensorMemoryMeter meter;
  GPT2 model(ModelConfig{.layers = 4, .heads = 4, .width = 64, .context = 64, .vocab_size = 64});
  const at::Tensor zeros = at::zeros({8, 64}, at::kLong);
  const auto kept = [&] {
    const Autocast autocast(at::kCPU, at::kBFloat16, true, /*cache_enabled=*/false);
    const int64_t before = meter.current_bytes();
    const at::Tensor loss = model->loss(zeros, zeros);
    return meter.current_bytes() - before;
  };
  const int64_t in_bf16 = kept();
  model->set_fp8(kCurrent);
  const int64_t rows = zeros.numel(), C = 64;
  const int64_t weights = 12 * C * C, bf16_weights = 2 * weights, blocks = 2;
  const int64_t scales = 2 * 4 * int64_t{sizeof(float)};
  EXPECT_LE(kept(), in_bf16 + blocks * (rows * C + weights - bf16_weights + scales));
}

TEST(GPT2Fp8, IsRefusedWhereNoLayerCouldUseIt) {
  GPT2 two(ModelConfig{.layers = 2, .heads = 2, .width = 32, .context = 16, .vocab_size = 64});
  EXPECT_THROW_WITH(two->set_fp8(kCurrent), "needs 3 layers or more, but there are 2");
  GPT2 narrow(ModelConfig{.layers = 3, .heads = 2, .width = 24, .context = 16, .vocab_size = 64});
  EXPECT_THROW_WITH(narrow->set_fp8(kCurrent), "a width in multiples of 16, but it is 24");
  EXPECT_NO_THROW(two->set_fp8(std::nullopt));
}

TEST(GPT2Fp8, RefusesHistoriesOfAnotherModel) {
  GPT2 model(small());
  model->set_fp8(kDelayed);
  EXPECT_THROW_WITH(model->set_fp8_histories({{"h.0.mlp.c_fc.x", at::zeros({5})}}),
                    "nothing of this model is cast to FP8 as h.0.mlp.c_fc.x");
  EXPECT_THROW_WITH(model->set_fp8_histories({{"h.1.mlp.c_fc.x", at::zeros({4})}}),
                    "must be of 4 casts, but is of 3");
  EXPECT_THROW_WITH(model->set_fp8_histories({{"h.1.mlp.c_fc.x", at::zeros({5}, at::kDouble)}}),
                    "in fp32, but is [5] in Double");
  model->set_fp8(kCurrent);
  EXPECT_THROW_WITH(model->set_fp8_histories({{"h.1.mlp.c_fc.x", at::zeros({5})}}),
                    "has no history");
}

}  // namespace
}  // namespace mezzo::models
