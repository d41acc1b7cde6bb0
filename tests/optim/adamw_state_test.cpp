#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/optim/adamw.h"
#include "tests/close.h"
#include "tests/optim/tensors.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::cloned;
using testing::magnitude_of;

NamedParameters model() {
  NamedParameters named;
  named.insert("weight", at::ones({3, 2}).set_requires_grad(true));
  named.insert("bias", at::ones({2}).set_requires_grad(true));
  return named;
}

void give_grads(NamedParameters& named, double value) {
  for (auto& parameter : named) {
    parameter.value().mutable_grad() = at::full_like(parameter.value(), value).detach();
  }
}

TEST(AdamWState, IsKeyedByParameterName) {
  auto named = model();
  AdamW optimizer(decay_groups(named, {}));
  std::vector<std::string> keys;
  for (const auto& [key, tensor] : optimizer.named_state(named)) {
    keys.push_back(key);
  }
  EXPECT_THAT(keys, ::testing::ElementsAre("exp_avg.bias", "exp_avg.weight", "exp_avg_sq.bias",
                                           "exp_avg_sq.weight", "step.bias", "step.weight"));
}

TEST(AdamWState, HoldsTheRunningMaximumWithAmsgrad) {
  auto named = model();
  AdamW optimizer(decay_groups(named, AdamWOptions().amsgrad(true)));
  EXPECT_TRUE(optimizer.named_state(named).contains("max_exp_avg_sq.weight"));
}

TEST(AdamWState, ALoadedOptimizerGoesOnBitForBit) {
  auto named = model();
  AdamW optimizer(decay_groups(named, AdamWOptions(0.1)));
  give_grads(named, 0.3);
  optimizer.step();

  auto other = model();
  AdamW resumed(decay_groups(other, AdamWOptions(0.1)));
  {
    const at::NoGradGuard no_grad;
    for (auto& parameter : other) {
      parameter.value().copy_(named[parameter.key()]);
    }
  }
  resumed.load_named_state(other, optimizer.named_state(named));
  give_grads(named, -0.7);
  give_grads(other, -0.7);
  optimizer.step();
  resumed.step();
  EXPECT_BIT_EQUAL(other["weight"], named["weight"]);
  EXPECT_BIT_EQUAL(other["bias"], named["bias"]);
  EXPECT_EQ(resumed.named_state(other).at("step.bias").item<float>(), 2.0F);
}

TEST(AdamWState, LoadingTakesCopies) {
  auto named = model();
  AdamW optimizer(decay_groups(named, {}));
  const auto state = cloned(optimizer.named_state(named));
  optimizer.load_named_state(named, state);
  give_grads(named, 1.0);
  optimizer.step();
  EXPECT_EQ(state.at("step.bias").item<float>(), 0.0F);
}

class AdamWStateRefusal : public ::testing::Test {
 protected:
  NamedParameters named = model();
  AdamW optimizer{decay_groups(named, {})};
  std::map<std::string, at::Tensor> state = cloned(optimizer.named_state(named));
};

TEST_F(AdamWStateRefusal, NamesAMissingKey) {
  state.erase("exp_avg.bias");
  EXPECT_THROW_WITH(optimizer.load_named_state(named, state), "must hold \"exp_avg.bias\"");
}

TEST_F(AdamWStateRefusal, NamesAnUnknownKey) {
  state["exp_avg.head"] = at::zeros({2});
  EXPECT_THROW_WITH(optimizer.load_named_state(named, state), "but holds \"exp_avg.head\"");
}

TEST_F(AdamWStateRefusal, NamesAnotherShapeOrDtype) {
  state["exp_avg.weight"] = at::zeros({2, 3});
  EXPECT_THROW_WITH(optimizer.load_named_state(named, state),
                    "\"exp_avg.weight\" must be Float [3, 2], but is Float [2, 3]");
  state["exp_avg.weight"] = at::zeros({3, 2}, at::kHalf);
  EXPECT_THROW_WITH(optimizer.load_named_state(named, state), "but is Half [3, 2]");
}

TEST_F(AdamWStateRefusal, ChangesNothing) {
  state["exp_avg.bias"].fill_(5.0);
  state["zzz"] = at::zeros({});
  EXPECT_THROW(optimizer.load_named_state(named, state), Error);
  EXPECT_EQ(magnitude_of(optimizer.named_state(named).at("exp_avg.bias")), 0.0);
}

TEST_F(AdamWStateRefusal, WantsANameForEveryParameter) {
  NamedParameters half;
  half.insert("bias", named["bias"]);
  EXPECT_THROW_WITH(optimizer.named_state(half), "every parameter must be named, but one of shape");
}

}  // namespace
}  // namespace mezzo::optim
