#include "mezzo/optim/parameter_groups.h"

#include <ATen/ATen.h>

#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using torch::optim::AdamWOptions;

const AdamWOptions& options_of(const torch::optim::OptimizerParamGroup& group) {
  return static_cast<const AdamWOptions&>(group.options());
}

TEST(ParameterGroups, DecayMatricesAndNothingElse) {
  NamedParameters named;
  named.insert("wte.weight", at::zeros({4, 2}).set_requires_grad(true));
  named.insert("ln.weight", at::zeros({2}).set_requires_grad(true));
  named.insert("frozen.weight", at::zeros({2, 2}));
  named.insert("fc.weight", at::zeros({2, 2}).set_requires_grad(true));
  named.insert("fc.bias", at::zeros({2}).set_requires_grad(true));
  const auto groups = decay_groups(named, AdamWOptions(0.5).weight_decay(0.1));

  ASSERT_EQ(groups.size(), 2U);
  ASSERT_EQ(groups[0].params().size(), 2U);
  EXPECT_TRUE(groups[0].params()[0].is_same(named["wte.weight"]));
  EXPECT_TRUE(groups[0].params()[1].is_same(named["fc.weight"]));
  ASSERT_EQ(groups[1].params().size(), 2U);
  EXPECT_TRUE(groups[1].params()[0].is_same(named["ln.weight"]));
  EXPECT_TRUE(groups[1].params()[1].is_same(named["fc.bias"]));
  EXPECT_EQ(options_of(groups[0]).weight_decay(), 0.1);
  EXPECT_EQ(options_of(groups[1]).weight_decay(), 0.0);
  EXPECT_EQ(options_of(groups[1]).lr(), 0.5);
}

TEST(ParameterGroups, TakeAParameterWithTwoNamesOnce) {
  NamedParameters named;
  named.insert("wte.weight", at::zeros({4, 2}).set_requires_grad(true));
  named.insert("lm_head.weight", named["wte.weight"]);
  EXPECT_EQ(decay_groups(named, AdamWOptions())[0].params().size(), 1U);
}

TEST(ParameterGroups, SetLrReachesEveryGroup) {
  NamedParameters named;
  named.insert("weight", at::zeros({2, 2}).set_requires_grad(true));
  named.insert("bias", at::zeros({2}).set_requires_grad(true));
  torch::optim::AdamW optimizer(decay_groups(named, AdamWOptions(0.5)));
  set_lr(optimizer, 0.25);
  for (const auto& group : optimizer.param_groups()) {
    EXPECT_EQ(group.options().get_lr(), 0.25);
  }
}

}  // namespace
}  // namespace mezzo::optim
