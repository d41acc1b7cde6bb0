#include "mezzo/kernels/attention/flash.h"

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>

#include "mezzo/base/log.h"
#include "mezzo/base/memory.h"
#include "mezzo/kernels/attention/attention.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "tests/close.h"
#include "tests/kernels/attention_exact.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;

at::Tensor random(at::IntArrayRef sizes, at::ScalarType dtype, int64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator).to(dtype);
}

struct Heads {
  int64_t query, key;
};

/// [B, H, T, E] and [B, K, T, E], as a transformer has them: columns of one product
/// [B, T, (H + 2 K) E].
AttentionInputs inputs_of(int64_t B, Heads n, int64_t T, int64_t E, at::ScalarType dtype,
                          bool is_causal) {
  const at::Tensor qkv = random({B, T, (n.query + 2 * n.key) * E}, dtype, 1);
  const auto heads = [&](const at::Tensor& x) { return x.view({B, T, -1, E}).transpose(1, 2); };
  const auto parts = qkv.split_with_sizes({n.query * E, n.key * E, n.key * E}, -1);
  return {heads(parts[0]), heads(parts[1]),
          heads(parts[2]), heads(random({B, T, n.query * E}, dtype, 2)),
          is_causal,       1.0 / std::sqrt(static_cast<double>(E))};
}

AttentionInputs inputs_of(int64_t B, int64_t H, int64_t T, int64_t E, at::ScalarType dtype,
                          bool is_causal) {
  return inputs_of(B, Heads{H, H}, T, E, dtype, is_causal);
}

/// Queries and keys of different number.
AttentionInputs inputs_of(int64_t Tq, int64_t Tk, at::ScalarType dtype, bool is_causal) {
  return {random({2, 2, Tq, 24}, dtype, 1),
          random({2, 2, Tk, 24}, dtype, 2),
          random({2, 2, Tk, 24}, dtype, 3),
          random({2, 2, Tq, 24}, dtype, 4),
          is_causal,
          0.25};
}

Attention compute(const AttentionInputs& in) {
  Attention got;
  std::tie(got.out, got.logsumexp) =
      flash::forward(in.query, in.key, in.value, in.is_causal, in.scale);
  std::tie(got.grad_query, got.grad_key, got.grad_value) = flash::backward(
      in.grad_out, in.query, in.key, in.value, got.out, got.logsumexp, in.is_causal, in.scale);
  return got;
}

void expect_same_bits(const Attention& got, const Attention& expected) {
  EXPECT_BIT_EQUAL(got.out, expected.out);
  EXPECT_BIT_EQUAL(got.logsumexp, expected.logsumexp);
  EXPECT_BIT_EQUAL(got.grad_query, expected.grad_query);
  EXPECT_BIT_EQUAL(got.grad_key, expected.grad_key);
  EXPECT_BIT_EQUAL(got.grad_value, expected.grad_value);
}

void expect_within(const Attention& got, const ExactAttention& exact, at::ScalarType dtype) {
  EXPECT_TRUE(is_within(got.out, exact.value.out, exact.bound.out)) << "out";
  EXPECT_TRUE(is_within(got.logsumexp, exact.value.logsumexp, exact.bound.logsumexp)) << "lse";
  EXPECT_TRUE(is_within(got.grad_query, exact.value.grad_query, exact.bound.grad_query)) << "dQ";
  EXPECT_TRUE(is_within(got.grad_key, exact.value.grad_key, exact.bound.grad_key)) << "dK";
  EXPECT_TRUE(is_within(got.grad_value, exact.value.grad_value, exact.bound.grad_value)) << "dV";
  for (const at::Tensor& x : {got.out, got.grad_query, got.grad_key, got.grad_value})
    EXPECT_EQ(x.scalar_type(), dtype);
}

#define SKIP_IF_REFUSED(in)                                                            \
  if (const auto why = flash::refusal((in).query, (in).key, (in).value); !why.empty()) \
  GTEST_SKIP() << why

class Flash : public ::testing::TestWithParam<std::tuple<at::ScalarType, int64_t, int64_t>> {};

TEST_P(Flash, IsWithinItsErrorBoundForwardAndBackward) {
  const auto [dtype, T, E] = GetParam();
  for (const bool is_causal : {true, false}) {
    const AttentionInputs in = inputs_of(1, 2, T, E, dtype, is_causal);
    SKIP_IF_REFUSED(in);
    const ExactAttention exact = exact_attention(in);
    SCOPED_TRACE(is_causal ? "causal" : "not causal");
    expect_within(compute(in), exact, dtype);
    // The bounds would not let a missing result pass. (One query has a constant softmax.)
    EXPECT_FALSE(is_within(at::zeros_like(in.query), exact.value.out, exact.bound.out));
    EXPECT_FALSE(is_within(at::zeros_like(in.key), exact.value.grad_value, exact.bound.grad_value));
    if (T == 1) continue;
    EXPECT_FALSE(
        is_within(at::zeros_like(in.query), exact.value.grad_query, exact.bound.grad_query));
    EXPECT_FALSE(is_within(at::zeros_like(in.key), exact.value.grad_key, exact.bound.grad_key));
  }
}

std::string case_name(const ::testing::TestParamInfo<Flash::ParamType>& param) {
  const auto& [dtype, T, E] = param.param;
  return fmt::format("{}_T{}_E{}", c10::toString(dtype), T, E);
}

INSTANTIATE_TEST_SUITE_P(DtypesAndShapes, Flash,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                                            ::testing::Values(1, 31, 33, 256, 257),
                                            ::testing::Values(8, 33, 64, 80)),
                         case_name);

class FlashDtypes : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(FlashDtypes, ServesMoreKeysThanQueriesAndFewer) {
  for (const auto& [Tq, Tk] : {std::pair{5, 200}, std::pair{200, 5}, std::pair{129, 65}}) {
    for (const bool is_causal : {true, false}) {
      const AttentionInputs in = inputs_of(Tq, Tk, GetParam(), is_causal);
      SKIP_IF_REFUSED(in);
      SCOPED_TRACE(fmt::format("{} queries, {} keys, causal {}", Tq, Tk, is_causal));
      expect_within(compute(in), exact_attention(in), GetParam());
    }
  }
}

TEST_P(FlashDtypes, DoesNotOverflowOnLargeScores) {
  AttentionInputs in = inputs_of(1, 2, 150, 32, GetParam(), true);
  in.scale = 80.0 / at::matmul(in.query, in.key.transpose(-1, -2)).abs().max().item<double>();
  for (const double sign : {1.0, -1.0}) {
    in.scale *= sign;
    SKIP_IF_REFUSED(in);
    expect_within(compute(in), exact_attention(in), GetParam());
  }
}

TEST_P(FlashDtypes, AveragesValuesWhereScoresAreEqual) {
  AttentionInputs in = inputs_of(1, 2, 100, 32, GetParam(), false);
  in.query = at::zeros_like(in.query);
  SKIP_IF_REFUSED(in);
  const Attention got = compute(in);
  expect_within(got, exact_attention(in), GetParam());
  EXPECT_CLOSE(got.logsumexp, at::full({1, 2, 100}, std::log(100.0), at::kDouble), 0x1p-21);
}

TEST_P(FlashDtypes, KeepsNaNInItsOwnQueryAndItsOwnHead) {
  AttentionInputs in = inputs_of(1, 2, 100, 32, GetParam(), true);
  in.query = in.query.clone();
  in.query[0][1][70][3] = std::numeric_limits<float>::quiet_NaN();
  SKIP_IF_REFUSED(in);
  const Attention got = compute(in);
  at::Tensor is_hit = at::zeros({1, 2, 100}, at::kBool);
  is_hit[0][1][70] = true;
  EXPECT_TRUE(at::equal(got.out.isnan().all(-1), is_hit));
  EXPECT_TRUE(at::equal(got.out.isnan().any(-1), is_hit));
  EXPECT_TRUE(at::equal(got.logsumexp.isnan(), is_hit));
  EXPECT_TRUE(at::equal(got.grad_query.isnan().any(-1), is_hit));
  // Every key that the query sees learns of it.
  EXPECT_TRUE(got.grad_key[0][1].slice(0, 0, 71).isnan().all().item<bool>());
  EXPECT_FALSE(got.grad_key[0][0].isnan().any().item<bool>());
}

void expect_same_bits_with_any_number_of_threads(const AttentionInputs& in) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Attention alone = compute(in);
  for (const int threads : {2, 5}) {
    at::set_num_threads(threads);
    expect_same_bits(compute(in), alone);
  }
  at::set_num_threads(before);
}

TEST_P(FlashDtypes, GivesTheSameBitsWithAnyNumberOfThreads) {
  for (const int64_t heads : {1, 3, 8}) {
    const AttentionInputs in = inputs_of(1, heads, 290, 40, GetParam(), true);
    SKIP_IF_REFUSED(in);
    expect_same_bits_with_any_number_of_threads(in);
  }
}

TEST_P(FlashDtypes, ReadsAnyLayout) {
  const AttentionInputs in = inputs_of(2, 2, 50, 32, GetParam(), true);
  SKIP_IF_REFUSED(in);
  const auto columns_first = [](const at::Tensor& x) {
    return x.transpose(-1, -2).contiguous().transpose(-1, -2);
  };
  AttentionInputs strided = in;
  for (at::Tensor* x : {&strided.query, &strided.key, &strided.value, &strided.grad_out})
    *x = columns_first(*x);
  const Attention expected = compute(in), got = compute(strided);
  expect_same_bits(got, expected);
}

// More heads than are packed at a time for five threads, and too few for each to take whole ones.
TEST(Flash, PacksFewHeadsAtATimeWhereTilesAreDealtOut) {
  const AttentionInputs in = inputs_of(1, 7, 2600, 8, at::kFloat, true);
  SKIP_IF_REFUSED(in);
  const int before = at::get_num_threads();
  at::set_num_threads(5);
  const TensorMemoryMeter memory;
  compute(in);
  at::set_num_threads(before);
  constexpr int64_t kBytesOfAHead = 2688 * 32 * sizeof(float);  // padded
  EXPECT_LT(memory.peak_bytes(), 3 * 7 * kBytesOfAHead);
}

// Of such there is no tensor "like" them: libtorch's has other strides.
TEST_P(FlashDtypes, TakesRowsThatOverlap) {
  const auto windows = [&](int64_t seed) {
    return random({2, 2, 40}, GetParam(), seed).unfold(-1, 32, 1);
  };
  const AttentionInputs in = {windows(1), windows(2), windows(3), windows(4), true, 0.25};
  SKIP_IF_REFUSED(in);
  AttentionInputs apart = in;
  for (at::Tensor* x : {&apart.query, &apart.key, &apart.value, &apart.grad_out})
    *x = x->contiguous();
  const Attention expected = compute(apart), got = compute(in);
  expect_same_bits(got, expected);
}

TEST_P(FlashDtypes, IsWhatScaledDotProductAttentionCallsForwardAndBackward) {
  for (const Heads heads : {Heads{2, 2}, Heads{4, 2}}) {
    const AttentionInputs in = inputs_of(2, heads, 50, 32, GetParam(), true);
    SKIP_IF_REFUSED(in);
    const Attention expected = compute(in);
    const CpuKernels kernels;
    const at::Tensor query = in.query.detach().requires_grad_(),
                     key = in.key.detach().requires_grad_(),
                     value = in.value.detach().requires_grad_();
    const at::Tensor out = at::scaled_dot_product_attention(query, key, value, {}, 0.0, true, {},
                                                            /*enable_gqa=*/heads.key < heads.query);
    out.backward(in.grad_out);
    EXPECT_BIT_EQUAL(out.detach(), expected.out);
    EXPECT_BIT_EQUAL(query.grad(), expected.grad_query);
    EXPECT_BIT_EQUAL(key.grad(), expected.grad_key);
    EXPECT_BIT_EQUAL(value.grad(), expected.grad_value);
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, FlashDtypes,
                         ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& param) { return c10::toString(param.param); });

class FlashGroups : public ::testing::TestWithParam<std::tuple<at::ScalarType, Heads>> {};

TEST_P(FlashGroups, AreWithinTheirErrorBoundForwardAndBackward) {
  const auto [dtype, heads] = GetParam();
  for (const int64_t T : {1, 33, 257}) {
    for (const bool is_causal : {true, false}) {
      const AttentionInputs in = inputs_of(2, heads, T, 24, dtype, is_causal);
      SKIP_IF_REFUSED(in);
      SCOPED_TRACE(fmt::format("length {}, causal {}", T, is_causal));
      const ExactAttention exact = exact_attention(in);
      expect_within(compute(in), exact, dtype);
      // The bounds would not let a sum pass in which one head of the group is missing.
      AttentionInputs without = in;
      without.grad_out = in.grad_out.clone();
      without.grad_out.select(1, -1).zero_();
      const Attention partial = exact_attention(without).value;
      EXPECT_FALSE(is_within(partial.grad_value, exact.value.grad_value, exact.bound.grad_value));
      if (T == 1) continue;
      EXPECT_FALSE(is_within(partial.grad_key, exact.value.grad_key, exact.bound.grad_key));
    }
  }
}

// What a query head computes does not depend on who else reads its keys.
TEST_P(FlashGroups, GiveTheBitsOfRepeatedHeads) {
  const auto [dtype, heads] = GetParam();
  const AttentionInputs in = inputs_of(2, heads, 150, 40, dtype, true);
  SKIP_IF_REFUSED(in);
  AttentionInputs apart = in;
  for (at::Tensor* x : {&apart.key, &apart.value})
    *x = x->repeat_interleave(heads.query / heads.key, 1);
  const Attention got = compute(in), expected = compute(apart);
  EXPECT_BIT_EQUAL(got.out, expected.out);
  EXPECT_BIT_EQUAL(got.logsumexp, expected.logsumexp);
  EXPECT_BIT_EQUAL(got.grad_query, expected.grad_query);
}

TEST_P(FlashGroups, GiveTheSameBitsWithAnyNumberOfThreads) {
  const auto [dtype, heads] = GetParam();
  const AttentionInputs in = inputs_of(1, heads, 290, 40, dtype, true);
  SKIP_IF_REFUSED(in);
  expect_same_bits_with_any_number_of_threads(in);
}

std::string group_name(const ::testing::TestParamInfo<FlashGroups::ParamType>& param) {
  const auto& [dtype, heads] = param.param;
  return fmt::format("{}_H{}_K{}", c10::toString(dtype), heads.query, heads.key);
}

INSTANTIATE_TEST_SUITE_P(DtypesAndHeads, FlashGroups,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                                            ::testing::Values(Heads{4, 2}, Heads{6, 2}, Heads{3, 1},
                                                              Heads{4, 4})),
                         group_name);

TEST(Flash, SharesItsLogsumexpWithLibtorch) {
  for (const Heads heads : {Heads{3, 3}, Heads{6, 2}}) {
    const AttentionInputs in = inputs_of(2, heads, 97, 32, at::kFloat, true);
    SKIP_IF_REFUSED(in);
    const ExactAttention exact = exact_attention(in);
    const Attention ours = compute(in);
    Attention mixed;
    std::tie(mixed.out, mixed.logsumexp) = at::cpu::_scaled_dot_product_flash_attention_for_cpu(
        in.query, in.key, in.value, 0.0, true, {}, in.scale);
    EXPECT_EQ(ours.logsumexp.strides(), mixed.logsumexp.strides());
    EXPECT_EQ(ours.out.strides(), mixed.out.strides());
    std::tie(mixed.grad_query, mixed.grad_key, mixed.grad_value) = flash::backward(
        in.grad_out, in.query, in.key, in.value, mixed.out, mixed.logsumexp, true, in.scale);
    expect_within(mixed, exact, at::kFloat);
    mixed = ours;
    std::tie(mixed.grad_query, mixed.grad_key, mixed.grad_value) =
        at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
            in.grad_out, in.query, in.key, in.value, ours.out, ours.logsumexp, 0.0, true, {},
            in.scale);
    expect_within(mixed, exact, at::kFloat);
  }
}

TEST(Flash, SabotagedScoresInBf16AreRejected) {
  AttentionInputs in = inputs_of(1, 2, 100, 32, at::kBFloat16, true);
  in.scale *= 4;
  const ExactAttention exact = exact_attention(in);
  const at::Tensor query = in.query.to(at::kFloat), key = in.key.to(at::kFloat),
                   value = in.value.to(at::kFloat);
  const at::Tensor is_future = at::ones({100, 100}, at::kBool).triu(1);
  const auto out_of = [&](const at::Tensor& scores) {
    const at::Tensor P =
        scores.masked_fill(is_future, -std::numeric_limits<float>::infinity()).softmax(-1);
    return at::matmul(P.to(at::kBFloat16).to(at::kFloat), value).to(at::kBFloat16);
  };
  const at::Tensor scores = at::matmul(query, key.transpose(-1, -2)) * in.scale;
  EXPECT_TRUE(is_within(out_of(scores), exact.value.out, exact.bound.out));
  EXPECT_FALSE(
      is_within(out_of(scores.to(at::kBFloat16).to(at::kFloat)), exact.value.out, exact.bound.out));
}

TEST(Flash, SaysWhenLibtorchTakesItsPlaceAndWhy) {
  const AttentionInputs in = inputs_of(5, 5, at::kFloat, false);
  std::string heard;
  set_log_sink([&](std::string_view, std::string_view text) { heard += text; });
  flash_attention(in.query, in.key, in.value, 0.0, false, at::zeros({5, 5}), in.scale);
  set_log_sink({});
  EXPECT_EQ(heard,
            "Float attention forward [2, 2, 5, 24]: libtorch, for flash over brgemm declined: "
            "a mask");
}

TEST(Flash, DeclinesWhatItDoesNotServe) {
  const auto refusal = [](at::IntArrayRef query, at::IntArrayRef key, at::ScalarType dtype) {
    return flash::refusal(at::ones(query, dtype), at::ones(key, dtype), at::ones(key, dtype));
  };
  EXPECT_EQ(refusal({1, 1, 4, 257}, {1, 1, 4, 257}, at::kFloat), "head size 257 is above 256");
  EXPECT_EQ(refusal({1, 1, 4, 8}, {1, 1, 4, 8}, at::kDouble), "Double is not served");
  EXPECT_EQ(refusal({1, 1, 0, 8}, {1, 1, 4, 8}, at::kFloat), "nothing to compute");
  EXPECT_EQ(refusal({2, 1, 4, 8}, {1, 1, 4, 8}, at::kFloat),
            "the shapes differ in batch, heads or head size");
  EXPECT_EQ(refusal({1, 3, 4, 8}, {1, 2, 4, 8}, at::kFloat),
            "3 query heads are no multiple of 2 key heads");
}

}  // namespace
}  // namespace mezzo::kernels
