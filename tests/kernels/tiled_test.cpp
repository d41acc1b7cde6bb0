#include "mezzo/kernels/matmul/tiled.h"

#include <cstdio>
#include <fstream>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/error.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "mezzo/kernels/matmul/share.h"
#include "mezzo/kernels/ops.h"
#include "tests/close.h"
#include "tests/kernels/product.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

using mezzo::testing::is_within;
using product::Case;
using product::case_name;
using product::error_bound;
using product::is_product;
using product::Shape;
using product::transposed;

const Random random(1);

// Rims of tiles on every side; K over one depth; rows over one panel's share; K over what is packed
// at once where columns are dense.
const std::vector<Shape> kShapes = {{64, 64, 1024},   {65, 127, 1030}, {130, 64, 1602},
                                    {2050, 66, 34},   {66, 70, 4098},  {191, 320, 98},
                                    {128, 128, 3072}, {64, 1100, 70}};

class Tiled : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const auto& [shape, dtype] = GetParam();
    std::tie(m_, n_, k_) = shape;
    dtype_ = dtype;
    a_ = random({m_, k_}, dtype);
    b_ = random({k_, n_}, dtype);
    const std::string refusal = tiled::refusal(a_, b_);
    if (!refusal.empty()) GTEST_SKIP() << refusal;
  }

  /// Both factors, with rows dense or columns.
  std::vector<std::pair<at::Tensor, at::Tensor>> layouts() const {
    return {{a_, b_}, {a_, transposed(b_)}, {transposed(a_), b_}, {transposed(a_), transposed(b_)}};
  }

  int64_t m_ = 0, n_ = 0, k_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor a_, b_;
};

TEST_P(Tiled, IsWithinTheErrorBoundOfAProductInEveryLayout) {
  for (const auto& [a, b] : layouts())
    EXPECT_TRUE(is_product(tiled::mm(a, b), a, b)) << a.strides() << " x " << b.strides();
}

TEST_P(Tiled, AddsABiasBeforeTheOneRounding) {
  const at::Tensor bias = random({n_}, dtype_);
  const at::Tensor wide_a = a_.to(at::kDouble), wide_b = b_.to(at::kDouble),
                   wide_bias = bias.to(at::kDouble);
  const at::Tensor exact = at::addmm(wide_bias, wide_a, wide_b);
  const at::Tensor magnitude = at::addmm(wide_bias.abs(), wide_a.abs(), wide_b.abs());
  for (const auto& [a, b] : layouts())
    EXPECT_TRUE(
        is_within(tiled::mm(a, b, bias), exact, error_bound(exact, magnitude, k_ + 1, dtype_)));
}

// One sum more than a product has, and no rounding to 16 bits.
TEST_P(Tiled, AddsToAnFp32Sum) {
  const at::Tensor before = random({m_, n_}, at::kFloat);
  const at::Tensor wide_a = a_.to(at::kDouble), wide_b = b_.to(at::kDouble),
                   wide_before = before.to(at::kDouble);
  const at::Tensor exact = at::addmm(wide_before, wide_a, wide_b);
  const at::Tensor magnitude = at::addmm(wide_before.abs(), wide_a.abs(), wide_b.abs());
  for (const auto& [a, b] : layouts()) {
    const at::Tensor sum = before.clone();
    tiled::add_mm(sum, a, b);
    EXPECT_TRUE(is_within(sum, exact, error_bound(exact, magnitude, k_ + 1, at::kFloat)));
  }
}

TEST_P(Tiled, ReadsNothingBesideItsFactors) {
  const auto inside = [&](const at::Tensor& x) {  // of a larger matrix, NaN all around
    const at::Tensor room =
        at::full({x.size(0) + 2, x.size(1) + 4}, std::numeric_limits<double>::quiet_NaN(), dtype_);
    const at::Tensor view = room.slice(0, 1, -1).slice(1, 2, -2);
    view.copy_(x);
    return view;
  };
  for (const auto& [a, b] : layouts()) {
    const at::Tensor framed_a = a.is_contiguous() ? inside(a) : inside(a.t()).t(),
                     framed_b = b.is_contiguous() ? inside(b) : inside(b.t()).t();
    EXPECT_BIT_EQUAL(tiled::mm(framed_a, framed_b), tiled::mm(a, b));
  }
}

TEST_P(Tiled, IsTheSameOnOneTwoAndFiveThreads) {
  const int before = at::get_num_threads();
  for (const auto& [a, b] : layouts()) {
    at::set_num_threads(1);
    const at::Tensor expected = tiled::mm(a, b);
    for (const int threads : {2, 5}) {
      at::set_num_threads(threads);
      EXPECT_BIT_EQUAL(tiled::mm(a, b), expected) << threads;
    }
  }
  at::set_num_threads(before);
}

INSTANTIATE_TEST_SUITE_P(ShapesAndDtypes, Tiled,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(at::kFloat, at::kBFloat16,
                                                              at::kHalf)),
                         case_name);

// Of a micro-kernel's code, which libtorch keeps for good for each K that one was asked for.
int64_t generated_bytes() {
  std::ifstream maps("/proc/self/maps");
  int64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0, inode = 0;
    char rights[5] = {};
    std::sscanf(line.c_str(), "%lx-%lx %4s %*s %*s %lu", &begin, &end, rights, &inode);
    if (rights[2] == 'x' && inode == 0) bytes += static_cast<int64_t>(end - begin);
  }
  return bytes;
}

TEST(Tiled, GeneratesNoCodeForEachNumberOfTokens) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor grad = random({1600, 64}, dtype), x = random({1600, 64}, dtype);
    if (!tiled::refusal(grad.t(), x).empty()) GTEST_SKIP() << tiled::refusal(grad.t(), x);
    const auto multiply = [&](int64_t tokens) {
      tiled::mm(grad.slice(0, 0, tokens).t(), x.slice(0, 0, tokens));
    };
    multiply(1600);
    const int64_t before = generated_bytes();
    for (int64_t tokens = 1569; tokens < 1600; ++tokens) multiply(tokens);
    EXPECT_EQ(generated_bytes(), before) << dtype;
  }
}

// No rows of pairs are read in place here.
TEST(Tiled, TakesAnOddKWhereItPacksTheLeftFactor) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor a = random({70, 1027}, dtype), b = random({1027, 66}, dtype);
    for (const at::Tensor& left : {a, transposed(a)}) {
      const std::string refusal = tiled::refusal(left, b);
      if (dtype == at::kBFloat16 && left.is_contiguous() && refusal == "K is odd") continue;
      if (!refusal.empty()) GTEST_SKIP() << refusal;
      EXPECT_TRUE(is_product(tiled::mm(left, b), a, b)) << dtype;
    }
  }
}

TEST(Shares, LeaveFewThreadsIdle) {
  constexpr int64_t kTiles = 64;  // of 4096 rows
  for (const int64_t panels : {12, 36, 48}) {
    for (const int64_t threads : {1, 2, 5, 8, 16, 20, 32, 64}) {
      const auto [firsts, seconds] = tiled::shares_of(threads, panels, kTiles);
      EXPECT_LE(firsts * seconds, threads);
      const int64_t most = ceil_div(panels, firsts) * ceil_div(kTiles, seconds);
      EXPECT_LE(most * threads * 95, panels * kTiles * 100) << panels << " on " << threads;
    }
  }
}

TEST(Shares, AreNoMoreThanThereAreTiles) {
  const auto [firsts, seconds] = tiled::shares_of(64, 2, 3);
  EXPECT_EQ(firsts, 2);
  EXPECT_EQ(seconds, 3);
}

TEST(TiledRefusal, NamesWhatItDoesNotTake) {
  const at::Tensor a = random({128, 1025}, at::kBFloat16), b = random({1025, 128}, at::kBFloat16);
  // Where bf16 is widened, no rows of pairs are read in place.
  if (!widens(at::kBFloat16)) {
    EXPECT_EQ(tiled::refusal(a, b), "K is odd");
  }
  EXPECT_NE(tiled::refusal(transposed(a), b), "K is odd");
  EXPECT_EQ(tiled::refusal(a.slice(0, 0, 63), b), "small product");
  const at::Tensor sparse = random({128, 2048}, at::kFloat).slice(1, 0, 2048, 2);
  EXPECT_EQ(tiled::refusal(sparse, random({1024, 128}, at::kFloat)),
            "neither rows nor columns are dense");
}

TEST(TiledRefusal, IsLibtorchsSettingsWhereTheyAskForAnotherProduct) {
  at::globalContext().setFloat32MatmulPrecision("medium");
  EXPECT_NE(tiled::process_refusal(at::kFloat), "");
  at::globalContext().setFloat32MatmulPrecision("highest");
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_EQ(tiled::process_refusal(at::kFloat), "oneDNN is switched off");
  at::globalContext().setUserEnabledMkldnn(true);
}

TEST(AddMm, AddsWhateverKernelMultiplies) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t size : {33, 257}) {  // too small for tiles, and not
      const at::Tensor a = random({size, 1024}, dtype), b = random({1024, size}, dtype),
                       sum = random({size, size}, at::kFloat);
      const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble);
      const at::Tensor exact = at::addmm(sum.to(at::kDouble), wide_a, wide_b);
      const at::Tensor magnitude = at::addmm(sum.to(at::kDouble).abs(), wide_a.abs(), wide_b.abs());
      kernels::add_mm(sum, a, b);
      EXPECT_TRUE(is_within(sum, exact, error_bound(exact, magnitude, 1025, dtype)));
    }
  }
}

TEST(AddMm, AsAnOpIsAWriteThatAutogradSees) {
  const auto op =
      typed_op<at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&)>("mezzo::add_mm_");
  const at::Tensor a = random({33, 64}, at::kFloat), b = random({64, 31}, at::kFloat);
  at::Tensor sum = at::zeros({33, 31});
  const int64_t before = sum._version();
  op.call(sum, a, b);
  EXPECT_EQ(sum._version(), before + 1);
  const at::Tensor leaf = a.detach().requires_grad_();
  EXPECT_THROW_WITH(op.call(sum, leaf, b), "add_mm_] has no gradient");
  const at::NoGradGuard no_grad;
  EXPECT_NO_THROW(op.call(sum, leaf, b));
}

// It is an op, which anybody may call.
TEST(AddMm, RefusesASumThatItsKernelsWouldWriteBeside) {
  const at::Tensor a = random({257, 1024}, at::kFloat), b = random({1024, 129}, at::kFloat);
  const auto add_to = [&](const at::Tensor& sum) { kernels::add_mm(sum, a, b); };
  EXPECT_THROW_WITH(add_to(at::zeros({33, 129})),
                    "[M, N], [M, K] and [K, N], but are [33, 129], [257, 1024], [1024, 129]");
  EXPECT_THROW_WITH(add_to(at::zeros({129, 257}).t()),
                    "sum must be fp32 and contiguous, but is Float with strides [1, 257]");
  EXPECT_THROW_WITH(add_to(at::zeros({257, 129}, at::kBFloat16)), "but is BFloat16");
  EXPECT_THROW_WITH(add_to(at::zeros({257, 129}, at::kMeta)),
                    "sum, a and b must be on a CPU, but are on meta, cpu and cpu");
}

}  // namespace
}  // namespace mezzo::kernels
