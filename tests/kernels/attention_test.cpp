#include "mezzo/kernels/attention/attention.h"

#include <cmath>
#include <limits>
#include <tuple>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

at::Tensor random(at::IntArrayRef sizes, int64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator).to(at::kHalf);
}

struct Gradients {
  at::Tensor out, query, key, value;
};

int64_t group_of(const at::Tensor& query, const at::Tensor& key) {
  return query.size(1) / key.size(1);
}

/// attention(query, key, value) and its gradients.
template <class Function>
Gradients differentiate(at::Tensor query, at::Tensor key, at::Tensor value,
                        const at::Tensor& grad_out, Function attention) {
  query = query.detach().requires_grad_();
  key = key.detach().requires_grad_();
  value = value.detach().requires_grad_();
  const at::Tensor out = attention(query, key, value);
  out.backward(grad_out);
  return {out.detach(), query.grad(), key.grad(), value.grad()};
}

using Mask = std::optional<at::Tensor>;

/// Causal, unless there is a mask.
Gradients attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                 const at::Tensor& grad_out, const Mask& mask = {}) {
  return differentiate(query, key, value, grad_out,
                       [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                         return at::scaled_dot_product_attention(q, k, v, mask, 0.0,
                                                                 !mask.has_value(), {},
                                                                 /*enable_gqa=*/true);
                       });
}

/// The same with each key and value there once for every query head that reads it.
Gradients attend_to_repeated(const at::Tensor& query, const at::Tensor& key,
                             const at::Tensor& value, const at::Tensor& grad_out,
                             const Mask& mask = {}) {
  const int64_t group = group_of(query, key);
  return differentiate(query, key, value, grad_out,
                       [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                         return at::scaled_dot_product_attention(q, k.repeat_interleave(group, 1),
                                                                 v.repeat_interleave(group, 1),
                                                                 mask, 0.0, !mask.has_value());
                       });
}

constexpr double kUnitRoundoff = 0x1p-11;  // fp16

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

// What rounding to fp16 alone explains. Softmax and products are fp32 inside, whose error is lost
// in the factor 2.
//   out, grad_value: one rounding of the result.
//   grad_query, grad_key: that, and the row term D = sum(grad_out * out), for which `out` arrives
//   rounded. D is off by at most d = E u max|grad_out| max|out|; grad_query collects it times scale
//   |key| over softmax rows (which sum to one), grad_key times scale |query| over softmax columns
//   of all heads of its group.
struct Tolerances {
  double out, query, key, value;
};

Tolerances tolerances(const Gradients& exact, const at::Tensor& query, const at::Tensor& key,
                      const at::Tensor& grad_out) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(-1)));
  const double d = query.size(-1) * kUnitRoundoff * largest(grad_out) * largest(exact.out);
  const int64_t group = group_of(query, key);
  const at::Tensor keys = key.repeat_interleave(group, 1);
  at::Tensor scores = at::matmul(query, keys.transpose(-1, -2)) * scale;
  const at::Tensor future = at::ones_like(scores, at::kBool).triu(1);
  const at::Tensor softmax =
      scores.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(-1);
  const at::Tensor columns = at::matmul(softmax.transpose(-1, -2), query.abs());
  const double column_sum = largest(columns.unflatten(1, {-1, group}).sum(2));
  return {2 * kUnitRoundoff * largest(exact.out),
          2 * (kUnitRoundoff * largest(exact.query) + d * scale * largest(key)),
          2 * (kUnitRoundoff * largest(exact.key) + d * scale * column_sum),
          2 * kUnitRoundoff * largest(exact.value)};
}

/// Length and number of key heads.
class FlashAttention : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(FlashAttention, Fp16AgreesWithFp64ForwardAndBackward) {
  const auto [length, K] = GetParam();
  const at::Tensor query = random({2, 6, length, 16}, 1), key = random({2, K, length, 16}, 2),
                   value = random({2, K, length, 16}, 3), grad_out = random({2, 6, length, 16}, 4);
  Gradients got;
  {
    const CpuKernels kernels;
    got = attend(query, key, value, grad_out);
  }
  const at::Tensor wide_query = query.to(at::kDouble), wide_key = key.to(at::kDouble),
                   wide_grad_out = grad_out.to(at::kDouble);
  const Gradients exact =
      attend_to_repeated(wide_query, wide_key, value.to(at::kDouble), wide_grad_out);
  const Tolerances tolerance = tolerances(exact, wide_query, wide_key, wide_grad_out);
  EXPECT_EQ(got.out.scalar_type(), at::kHalf);
  EXPECT_EQ(got.query.scalar_type(), at::kHalf);
  EXPECT_LE(largest(got.out.to(at::kDouble) - exact.out), tolerance.out);
  EXPECT_LE(largest(got.value.to(at::kDouble) - exact.value), tolerance.value);
  EXPECT_LE(largest(got.query.to(at::kDouble) - exact.query), tolerance.query);
  EXPECT_LE(largest(got.key.to(at::kDouble) - exact.key), tolerance.key);
  // With one position softmax is constant; from two on the bounds would not let a missing gradient
  // pass.
  if (length > 1) {
    EXPECT_GT(largest(exact.query), tolerance.query);
    EXPECT_GT(largest(exact.key), tolerance.key);
  }
}

INSTANTIATE_TEST_SUITE_P(LengthsAndKeyHeads, FlashAttention,
                         ::testing::Combine(::testing::Values(1, 31, 33, 257),
                                            ::testing::Values(6, 2)));

// libtorch's kernel serves what flash over brgemm declines.
TEST(FlashAttention, TakesGroupedHeadsWithAMask) {
  const CpuKernels kernels;
  const auto wide = [](at::IntArrayRef sizes, int64_t seed) {
    return random(sizes, seed).to(at::kDouble);
  };
  const at::Tensor query = wide({2, 6, 33, 16}, 1), key = wide({2, 2, 33, 16}, 2),
                   value = wide({2, 2, 33, 16}, 3), grad_out = wide({2, 6, 33, 16}, 4),
                   mask = wide({33, 33}, 5);
  const Gradients got = attend(query, key, value, grad_out, mask),
                  expected = attend_to_repeated(query, key, value, grad_out, mask);
  // Two fp64 programs, whose longest sum goes over the queries of a group.
  const auto expect_close = [](const at::Tensor& x, const at::Tensor& y) {
    EXPECT_CLOSE(x, y, 2 * tolerance_for(at::kDouble, 3 * 33, mezzo::testing::magnitude_of(y)));
  };
  expect_close(got.out, expected.out);
  expect_close(got.query, expected.query);
  expect_close(got.key, expected.key);
  expect_close(got.value, expected.value);
}

TEST(FlashAttention, AcceptsAnAdditiveFp16Mask) {
  const CpuKernels kernels;
  const at::Tensor query = random({1, 2, 5, 8}, 1);
  const at::Tensor mask =
      at::full({1, 1, 5, 5}, -std::numeric_limits<float>::infinity(), at::kHalf).triu(1);
  const at::Tensor masked = at::scaled_dot_product_attention(query, query, query, mask);
  const at::Tensor causal = at::scaled_dot_product_attention(query, query, query, {}, 0.0, true);
  EXPECT_LE(largest((masked - causal).to(at::kDouble)),
            2 * kUnitRoundoff * largest(query.to(at::kDouble)));
}

// A mask keeps flash over brgemm out; oneDNN's switch makes any machine one that widens bf16.
TEST(FlashAttention, WidensBf16WhereItsProductsAreWidened) {
  at::globalContext().setUserEnabledMkldnn(false);
  const at::Tensor query = random({1, 2, 33, 8}, 1).to(at::kBFloat16), wide = query.to(at::kFloat);
  const at::Tensor mask = random({1, 1, 33, 33}, 2).to(at::kBFloat16);
  const auto [out, logsumexp] = flash_attention(query, query, query, 0.0, false, mask, {});
  const auto [wide_out, wide_logsumexp] =
      flash_attention(wide, wide, wide, 0.0, false, mask.to(at::kFloat), {});
  EXPECT_BIT_EQUAL(out, wide_out.to(at::kBFloat16));
  EXPECT_BIT_EQUAL(logsumexp, wide_logsumexp);
  const auto [grad_query, grad_key, grad_value] =
      flash_attention_backward(query, query, query, query, out, logsumexp, 0.0, false, mask, {});
  const auto [wide_query, wide_key, wide_value] = flash_attention_backward(
      wide, wide, wide, wide, out.to(at::kFloat), logsumexp, 0.0, false, mask.to(at::kFloat), {});
  EXPECT_BIT_EQUAL(grad_query, wide_query.to(at::kBFloat16));
  EXPECT_BIT_EQUAL(grad_key, wide_key.to(at::kBFloat16));
  EXPECT_BIT_EQUAL(grad_value, wide_value.to(at::kBFloat16));
  at::globalContext().setUserEnabledMkldnn(true);
}

}  // namespace
}  // namespace mezzo::kernels
