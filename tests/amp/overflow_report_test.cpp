#include "mezzo/amp/overflow_report.h"

#include <cmath>
#include <set>

#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr kernels::TensorStats kGood{.numel = 4, .largest = 1.0};
constexpr kernels::TensorStats kInfs{.numel = 4, .positive_inf = 1, .negative_inf = 1};
constexpr kernels::TensorStats kMixed{.numel = 4, .nan = 2, .positive_inf = 1};
constexpr kernels::TensorStats kNans{.numel = 4, .nan = 4};

const std::vector<std::string> kModel = {"wte.weight",          "h.0.ln_1.weight",
                                         "h.0.mlp.c_fc.weight", "h.1.ln_1.weight",
                                         "h.1.mlp.c_fc.weight", "ln_f.weight"};

/// The model's gradients, of which those at `hit` are not finite.
std::vector<GradientFacts> gradients(const std::set<size_t>& hit) {
  std::vector<GradientFacts> all;
  for (size_t i = 0; i < kModel.size(); ++i)
    all.push_back({kModel[i], hit.contains(i) ? kInfs : kGood});
  return all;
}

TEST(OverflowReport, NamesTheParameterNearestToTheLossAndHowManyMore) {
  EXPECT_EQ(name_overflow(gradients({4})), "inf in h.1.mlp.c_fc.weight");
  EXPECT_EQ(name_overflow(gradients({0, 1, 2, 4})), "inf in h.1.mlp.c_fc.weight (+3)");
}

TEST(OverflowReport, SaysNanOnlyWhereThereIsNoInf) {
  EXPECT_EQ(name_overflow({{"a", kNans}}), "nan in a");
  EXPECT_EQ(name_overflow({{"a", kMixed}}), "inf in a");
}

TEST(OverflowReport, DescribesTheWorstFirstAndAtMostFive) {
  EXPECT_EQ(describe_overflow({{"a", kInfs}, {"b", kGood}, {"c", kNans}}),
            "c (4 of 4 elements), a (2 of 4 elements)");
  const std::string six = describe_overflow(gradients({0, 1, 2, 3, 4, 5}));
  EXPECT_THAT(six, ::testing::HasSubstr("h.1.mlp"));
  EXPECT_THAT(six, ::testing::Not(::testing::HasSubstr("ln_f")));
}

TEST(OverflowReport, HasNoWordsForFiniteGradients) {
  EXPECT_EQ(name_overflow(gradients({})), "");
  EXPECT_EQ(describe_overflow(gradients({})), "");
  EXPECT_EQ(overflow_origin(gradients({}), true), "");
}

TEST(OverflowOrigin, OfALossThatIsNotFiniteIsTheForwardPass) {
  EXPECT_EQ(overflow_origin(gradients({0, 1, 2, 3, 4, 5}), false),
            "in the loss or the forward pass");
}

TEST(OverflowOrigin, OfAllGradientsUnderAFiniteLossIsTheLossesBackward) {
  EXPECT_EQ(overflow_origin(gradients({0, 1, 2, 3, 4, 5}), true),
            "from the loss down: born in backward");
}

TEST(OverflowOrigin, OfAllBelowALayerIsThatLayer) {
  EXPECT_EQ(overflow_origin(gradients({0, 1, 2, 4}), true),
            "from h.1 down: born in backward there");
  EXPECT_EQ(overflow_origin(gradients({0, 1, 2, 3}), true),
            "from h.1 down: born in backward there");
  EXPECT_EQ(overflow_origin(gradients({0, 1}), true), "from h.0 down: born in backward there");
}

TEST(OverflowOrigin, IsNotGuessedAt) {
  EXPECT_EQ(overflow_origin(gradients({4}), true), "");        // its own sum, it may be
  EXPECT_EQ(overflow_origin(gradients({0}), true), "");        // the first of all
  EXPECT_EQ(overflow_origin(gradients({0, 2, 4}), true), "");  // h.0.ln_1 is spared
}

TEST(GradientFacts, AreReadWhereThereIsAGradient) {
  const at::Tensor a = at::zeros({2}).requires_grad_(), b = at::zeros({2}).requires_grad_();
  b.mutable_grad() = at::tensor({NAN, 3.0f});
  const std::vector<GradientFacts> facts = read_gradients({{"a", a}, {"b", b}});
  ASSERT_EQ(facts.size(), 1u);
  EXPECT_EQ(facts[0].name, "b");
  EXPECT_EQ(facts[0].facts, (kernels::TensorStats{.numel = 2, .nan = 1, .largest = 3.0}));
}

TEST(GradientFacts, OfParametersThatAnotherOptimizerHasAreNotNamed) {
  const at::Tensor a = at::zeros({2}).requires_grad_(), b = at::zeros({3}).requires_grad_();
  const at::Tensor foreign = at::zeros({2}).requires_grad_();
  const torch::optim::SGD optimizer({b, a}, 0.1);
  const auto named = named_parameters(optimizer, {{"foreign", foreign}, {"a", a}});
  ASSERT_EQ(named.size(), 2u);
  EXPECT_EQ(named[0].first, "a");
  EXPECT_EQ(named[1].first, "parameter 0 of group 0, shape 3");
}

}  // namespace
}  // namespace mezzo
