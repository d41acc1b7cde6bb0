#include "mezzo/kernels/rope/rope.h"

#include <cmath>
#include <numbers>
#include <tuple>
#include <vector>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/memory.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/rope_bound.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

const Random random(7);

at::Tensor cos_of(const at::Tensor& table) { return table.to(at::kDouble).chunk(2, -1)[0]; }
at::Tensor sin_of(const at::Tensor& table) { return table.to(at::kDouble).chunk(2, -1)[1]; }

/// As Hugging Face's Llama has it: x cos + rotate_half(x) sin, of angles side by side twice.
at::Tensor halves_of_the_field(const at::Tensor& x, const at::Tensor& table) {
  const auto two = x.chunk(2, -1);
  const at::Tensor cos = cos_of(table).repeat({1, 2}).unsqueeze(1),
                   sin = sin_of(table).repeat({1, 2}).unsqueeze(1);
  return x * cos + at::cat({-two[1], two[0]}, -1) * sin;
}

/// As Meta's Llama has it: pairs are complex numbers, multiplied by others of length 1.
at::Tensor interleaved_of_the_field(const at::Tensor& x, const at::Tensor& table) {
  const at::Tensor turns = at::complex(cos_of(table), sin_of(table)).unsqueeze(1);
  const at::Tensor pairs = at::view_as_complex(x.unflatten(-1, {-1, 2}).contiguous());
  return at::view_as_real(pairs * turns).flatten(-2);
}

at::Tensor rope_of_the_field(const at::Tensor& x, const at::Tensor& table, RopePairs pairs) {
  const at::Tensor rows = table.slice(0, 0, x.size(1));
  return pairs == RopePairs::kHalves ? halves_of_the_field(x, rows)
                                     : interleaved_of_the_field(x, rows);
}

/// Dtype, pairs, D.
using Case = std::tuple<at::ScalarType, RopePairs, int64_t>;

class RopeOf : public mezzo::testing::OnDevice<Case> {
 protected:
  RopeOf() {
    std::tie(dtype, pairs, D) = GetParam();
    // Queries and keys, of five heads each, in a packed [B, T, 3 C].
    packed = random({2, 37, 3 * 5 * D}, dtype);
    table = rope_table(40, D);
  }

  at::Tensor queries_and_keys(const at::Tensor& all) const {
    return all.narrow(2, 0, 10 * D).unflatten(2, {10, D});
  }

  at::ScalarType dtype;
  RopePairs pairs;
  int64_t D;
  at::Tensor packed, table;
};

TEST_P(RopeOf, TurnsAPartOfAPackedTensorWithinItsBound) {
  const at::Tensor got = here(rope(queries_and_keys(there(packed)), there(table), pairs));
  EXPECT_EQ(got.scalar_type(), dtype);
  EXPECT_TRUE(got.is_contiguous());
  const at::Tensor x = queries_and_keys(packed).to(at::kDouble);
  const at::Tensor want = rope_of_the_field(x, table, pairs);
  EXPECT_TRUE(mezzo::testing::is_within(got, want, rope_bound(dtype, pairs, x, want)));
}

TEST_P(RopeOf, GradientIsTheOneThatAutogradFindsInFp64) {
  // As attention hands it back: [B, H, T, D], transposed.
  const at::Tensor grad = random({2, 10, 37, D}, dtype);
  const at::Tensor leaf = there(packed).detach().requires_grad_();
  const at::Tensor y = rope(queries_and_keys(leaf), there(table), pairs);
  const at::Tensor got = here(torch::autograd::grad({y}, {leaf}, {there(grad).transpose(1, 2)})[0]);

  const at::Tensor exact = packed.to(at::kDouble).requires_grad_(),
                   exact_grad = grad.transpose(1, 2).to(at::kDouble);
  const at::Tensor want = torch::autograd::grad(
      {rope_of_the_field(queries_and_keys(exact), table, pairs)}, {exact}, {exact_grad})[0];
  const at::Tensor turned = queries_and_keys(want);
  EXPECT_TRUE(mezzo::testing::is_within(queries_and_keys(got), turned,
                                        rope_bound(dtype, pairs, exact_grad, turned)));
  EXPECT_TRUE(got.narrow(2, 10 * D, 5 * D).eq(0).all().item<bool>());
}

TEST_P(RopeOf, TakesAnyStrides) {
  const at::Tensor by_head = there(random({2, 10, 37, D}, dtype)),
                   reversed = there(random({D, 10, 37, 2}, dtype));
  for (const at::Tensor& x : {by_head.transpose(1, 2), reversed.permute({3, 2, 1, 0})})
    EXPECT_BIT_EQUAL(rope(x, there(table), pairs), rope(x.contiguous(), there(table), pairs));
}

TEST_P(RopeOf, GoesOnWhereATablesRowsDo) {
  const at::Tensor x = there(random({2, 37, 3, D}, dtype));
  EXPECT_BIT_EQUAL(rope(x.slice(1, 30), there(table).slice(0, 30), pairs),
                   rope(x, there(table), pairs).slice(1, 30));
}

std::string case_name(const ::testing::TestParamInfo<Case>& param) {
  const auto& [dtype, pairs, D] = param.param;
  return fmt::format("{}_{}_{}", c10::toString(dtype),
                     pairs == RopePairs::kHalves ? "halves" : "interleaved", D);
}

const auto kBothPairs = ::testing::Values(RopePairs::kHalves, RopePairs::kInterleaved);

INSTANTIATE_TEST_SUITE_P(Types, RopeOf,
                         mezzo::testing::on_devices(::testing::Combine(
                             ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf, at::kDouble),
                             kBothPairs, ::testing::Values(2, 6, 62, 64))),
                         mezzo::testing::device_and(case_name));

class RopeWith : public mezzo::testing::OnDevice<RopePairs> {};

TEST_P(RopeWith, ATableOf16BitsWouldBeOutsideTheBound) {
  const at::Tensor x = random({1, 40, 2, 64}, at::kFloat), table = rope_table(40, 64);
  const at::Tensor exact = x.to(at::kDouble), want = rope_of_the_field(exact, table, GetParam()),
                   bound = rope_bound(at::kFloat, GetParam(), exact, want);
  const at::Tensor rounded = table.to(at::kBFloat16).to(at::kFloat);
  EXPECT_TRUE(
      mezzo::testing::is_within(here(rope(there(x), there(table), GetParam())), want, bound));
  EXPECT_FALSE(
      mezzo::testing::is_within(here(rope(there(x), there(rounded), GetParam())), want, bound));
}

TEST_P(RopeWith, AProductOfTwoPositionsKnowsOfTheirDistanceAlone) {
  const at::Tensor query = random({1, 1, 1, 64}, at::kFloat).expand({1, 50, 1, 64}),
                   key = random({1, 1, 1, 64}, at::kFloat).expand({1, 50, 1, 64});
  const at::Tensor table = there(rope_table(50, 64));
  const auto turned = [&](const at::Tensor& x) {
    return here(rope(there(x), table, GetParam())).view({50, 64}).to(at::kDouble);
  };
  const at::Tensor scores = at::mm(turned(query), turned(key).t());
  // Two scores of 64 products each, of numbers that are up to |a| + |b|, off by the table's
  // rounding, two products' and a sum's.
  const double most =
      4 * mezzo::testing::magnitude_of(query) * mezzo::testing::magnitude_of(key) * 64;
  const auto part = [&](int64_t from) {
    return scores.slice(0, from, 49 + from).slice(1, from, 49 + from);
  };
  EXPECT_CLOSE(part(1), part(0), 2 * tolerance_for(at::kFloat, 2 * 3, most));
}

TEST_P(RopeWith, LeavesTheFirstPositionAsItIs) {
  const at::Tensor x = there(random({2, 1, 3, 8}, at::kBFloat16));
  EXPECT_BIT_EQUAL(rope(x, there(rope_table(1, 8)), GetParam()), x.contiguous());
}

TEST_P(RopeWith, ANaNStaysInItsPair) {
  at::Tensor x = random({1, 4, 2, 8}, at::kFloat);
  x[0][2][1][3] = NAN;
  const at::Tensor y = here(rope(there(x), there(rope_table(4, 8)), GetParam()));
  EXPECT_EQ(y.isnan().sum().item<int64_t>(), 2);
  EXPECT_TRUE(y[0][2][1].isnan()[3].item<bool>());
  EXPECT_TRUE(y[0][2][1].isnan()[GetParam() == RopePairs::kHalves ? 7 : 2].item<bool>());
}

TEST_P(RopeWith, CanBeDifferentiatedTwice) {
  const at::Tensor x = there(random({1, 5, 2, 8}, at::kFloat)).requires_grad_(),
                   grad = there(random({1, 5, 2, 8}, at::kFloat)).requires_grad_(),
                   again = there(random({1, 5, 2, 8}, at::kFloat));
  const at::Tensor table = there(rope_table(5, 8)), y = rope(x, table, GetParam());
  const at::Tensor grad_x = torch::autograd::grad({y}, {x}, {grad}, true, /*create_graph=*/true)[0];
  // The gradient is turned back: its own gradient is turned forward.
  EXPECT_BIT_EQUAL(torch::autograd::grad({grad_x}, {grad}, {again})[0],
                   rope(again, table, GetParam()));
}

TEST_P(RopeWith, TakesNothing) {
  const at::Tensor table = there(rope_table(4, 8));
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{0, 4, 2, 8}, {1, 0, 2, 8}, {1, 4, 0, 8}})
    EXPECT_EQ(rope(at::empty(sizes, device), table, GetParam()).sizes(), sizes);
}

std::string pairs_name(const ::testing::TestParamInfo<RopePairs>& pairs) {
  return pairs.param == RopePairs::kHalves ? "halves" : "interleaved";
}

INSTANTIATE_TEST_SUITE_P(Pairs, RopeWith, mezzo::testing::on_devices(kBothPairs),
                         mezzo::testing::device_and(pairs_name));

TEST(Rope, HasTheSameBitsForAnyNumberOfThreads) {
  const at::Tensor x = random({3, 111, 6, 64}, at::kBFloat16), table = rope_table(111, 64);
  const int before = at::get_num_threads();
  std::vector<at::Tensor> turned;
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    turned.push_back(rope(x, table));
  }
  at::set_num_threads(before);
  EXPECT_BIT_EQUAL(turned[1], turned[0]);
  EXPECT_BIT_EQUAL(turned[2], turned[0]);
}

TEST(Rope, KeepsNothingForTheBackwardPass) {
  const at::Tensor leaf = random({2, 32, 4, 16}, at::kBFloat16).requires_grad_(),
                   table = rope_table(32, 16);
  const TensorMemoryMeter meter;
  at::Tensor y;
  {
    const at::Tensor x = leaf + leaf;
    y = rope(x, table);
  }
  EXPECT_EQ(meter.current_bytes(), static_cast<int64_t>(y.nbytes()));
}

TEST(Rope, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::ones({1, 4, 2, 8}), table = rope_table(4, 8);
  EXPECT_THROW_WITH(rope(at::ones({4, 2, 8}), table), "must be [B, T, H, D]");
  EXPECT_THROW_WITH(rope(at::ones({1, 4, 2, 7}), table), "an even D, but is [1, 4, 2, 7] of Float");
  EXPECT_THROW_WITH(rope(x.to(at::kLong), table), "of Long");
  EXPECT_THROW_WITH(rope(x, table.to(at::kHalf)),
                    "table must be fp32, but is Half. Hint: a model's");
  EXPECT_THROW_WITH(rope(x, rope_table(4, 6)), "as x has heads of 8, but is [4, 6]");
  EXPECT_THROW_WITH(rope(x, table.slice(0, 1)), "x has 4 positions, but table only 3");
  EXPECT_THROW_WITH(rope(x, table.to(at::kMeta)), "on the device of x, cpu, but is on meta");
}

TEST(RopeTable, HoldsAnglesOfFp64RoundedOnce) {
  const int64_t positions = 20000, D = 64;
  const at::Tensor table = rope_table(positions, D, {.base = 500000.0});
  EXPECT_EQ(table.scalar_type(), at::kFloat);
  EXPECT_EQ(table.sizes(), at::IntArrayRef({positions, D}));
  for (const int64_t t : {0, 1, 777, 19999}) {
    for (const int64_t i : {0, 1, 17, 31}) {
      const double angle =
          static_cast<double>(t) * std::pow(500000.0, -2.0 * static_cast<double>(i) / D);
      // Half an ULP of a number up to 1, and three roundings of an angle up to 20000 in fp64.
      const double bound = 0x1p-25 + 3 * 20000 * 0x1p-53;
      EXPECT_NEAR(table[t][i].item<double>(), std::cos(angle), bound) << t << ", " << i;
      EXPECT_NEAR(table[t][i + 32].item<double>(), std::sin(angle), bound) << t << ", " << i;
    }
  }
}

/// Of one frequency, as Hugging Face's _compute_llama3_parameters has it, case by case.
double llama3_frequency(double frequency, const Llama3Scaling& scaling) {
  const auto context = static_cast<double>(scaling.original_context);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (context / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

TEST(RopeTable, ScalesFrequenciesAsLlama3Does) {
  const Llama3Scaling scaling{.factor = 32.0};
  const int64_t D = 128;
  const at::Tensor table = rope_table(101, D, {.base = 500000.0, .scaling = scaling});
  int stretched = 0, mixed = 0;
  for (int64_t i = 0; i < D / 2; ++i) {
    const double plain = std::pow(500000.0, -2.0 * static_cast<double>(i) / D),
                 frequency = llama3_frequency(plain, scaling);
    EXPECT_NEAR(table[100][D / 2 + i].item<double>(), std::sin(100 * frequency),
                0x1p-25 + 8 * 100 * 0x1p-53)
        << i;
    stretched += frequency == plain / scaling.factor;
    mixed += frequency != plain && frequency != plain / scaling.factor;
  }
  EXPECT_GT(stretched, 0);
  EXPECT_GT(mixed, 0);
  EXPECT_LT(stretched + mixed, D / 2);
}

TEST(RopeTable, RefusesWhatMakesNoAngles) {
  EXPECT_THROW_WITH(rope_table(-1, 8), "positions must be >= 0, but are -1");
  EXPECT_THROW_WITH(rope_table(4, 7), "must be even and > 0, but is 7");
  EXPECT_THROW_WITH(rope_table(4, 8, {.base = 0.0}), "base must be finite and > 0, but is 0");
  EXPECT_THROW_WITH(rope_table(4, 8, {.scaling = Llama3Scaling{.factor = 0.0}}),
                    "factor and original_context must be > 0, but are 0 and 8192");
  EXPECT_THROW_WITH(rope_table(4, 8, {.scaling = Llama3Scaling{.low_freq_factor = 4.0}}),
                    "high_freq_factor must be > low_freq_factor, but they are 4 and 4");
}

}  // namespace
}  // namespace mezzo::kernels
