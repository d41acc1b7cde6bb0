#include <fmt/format.h>

#include <ATen/ATen.h>

#include "mezzo/base/error.h"
#include "mezzo/optim/compact_adamw.h"
#include "tests/close.h"
#include "tests/optim/tensors.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::cloned;
using testing::expect_equal;
using testing::some;
using testing::Tensors;

NamedParameters model(int64_t seed) {
  NamedParameters named;
  named.insert("matrix", some({70, 65}, seed).set_requires_grad(true));
  named.insert("bias", some({65}, seed + 1).set_requires_grad(true));
  return named;
}

void step(CompactAdamW& optimizer, NamedParameters& named, int64_t number) {
  for (auto& parameter : named) {
    parameter.value().mutable_grad() = some(parameter.value().sizes(), 10 + number);
  }
  optimizer.step();
}

CompactAdamWOptions compact() {
  return CompactAdamWOptions(0.1).moment_bits(8).split_weights(true);
}

TEST(CompactState, IsKeyedByParameterNameInDtypesOfSafetensors) {
  auto named = model(1);
  CompactAdamW optimizer(decay_groups(named, compact()));
  std::string kinds;
  for (const auto& [key, tensor] : optimizer.named_state(named)) {
    kinds += fmt::format("{} {}; ", key, c10::toString(tensor.scalar_type()));
  }
  EXPECT_EQ(kinds,
            "exp_avg.bias Float; exp_avg.matrix Char; exp_avg_scale.matrix Float; "
            "exp_avg_sq.bias Float; exp_avg_sq.matrix Byte; exp_avg_sq_scale.matrix Float; "
            "remainder.matrix Short; step.bias Float; step.matrix Float; ");
}

TEST(CompactState, WithTheModelsParametersGoesOnBitForBit) {
  auto named = model(1), other = model(5);
  CompactAdamW optimizer(decay_groups(named, compact())), resumed(decay_groups(other, compact()));
  step(optimizer, named, 1);
  {
    const at::NoGradGuard no_grad;
    for (auto& parameter : other) parameter.value().copy_(named[parameter.key()]);
  }
  resumed.load_named_state(other, optimizer.named_state(named));
  for (int64_t number = 2; number < 20; ++number) {
    step(optimizer, named, number);
    step(resumed, other, number);
  }
  expect_equal(resumed.named_state(other), optimizer.named_state(named));
  expect_equal(resumed.master_weights(other), optimizer.master_weights(named));
}

TEST(CompactState, IsRefusedFromOtherOptions) {
  auto named = model(1), other = model(1);
  CompactAdamW optimizer(decay_groups(named, compact()));
  CompactAdamW plain(decay_groups(other, CompactAdamWOptions(0.1)));
  EXPECT_THROW_WITH(plain.load_named_state(other, optimizer.named_state(named)),
                    "\"exp_avg.matrix\" must be Float [70, 65], but is Char [70, 65]");
  EXPECT_THROW_WITH(optimizer.load_named_state(named, plain.named_state(other)),
                    "must be Char [70, 65], but is Float [70, 65]");
}

TEST(MasterWeights, AreTheFp32NumbersThatWereSplit) {
  auto named = model(1);
  const at::Tensor matrix = named["matrix"].detach().clone();
  CompactAdamW optimizer(decay_groups(named, compact()));
  const auto masters = optimizer.master_weights(named);
  EXPECT_BIT_EQUAL(masters.at("matrix"), matrix);
  EXPECT_BIT_EQUAL(masters.at("bias"), named["bias"]);
}

TEST(MasterWeights, LoadBitForBitIntoSplitAndWholeWeights) {
  auto named = model(1), split = model(5), whole = model(7);
  CompactAdamW optimizer(decay_groups(named, compact()));
  for (int64_t number = 1; number < 5; ++number) step(optimizer, named, number);
  const auto masters = cloned(optimizer.master_weights(named));
  CompactAdamW into_split(decay_groups(split, compact()));
  CompactAdamW into_whole(decay_groups(whole, CompactAdamWOptions()));
  into_split.load_master_weights(split, masters);
  into_whole.load_master_weights(whole, masters);
  expect_equal(into_split.master_weights(split), masters);
  EXPECT_BIT_EQUAL(split["matrix"], named["matrix"]);
  EXPECT_BIT_EQUAL(whole["matrix"], masters.at("matrix"));
}

TEST(MasterWeights, ARefusalChangesNothing) {
  auto named = model(1);
  CompactAdamW optimizer(decay_groups(named, compact()));
  const auto before = optimizer.master_weights(named);
  auto masters = cloned(before);
  masters.at("bias") += 1;
  masters.at("matrix") = at::zeros({65, 70});
  EXPECT_THROW_WITH(optimizer.load_master_weights(named, masters), "\"matrix\" must be Float");
  masters.erase("matrix");
  EXPECT_THROW_WITH(optimizer.load_master_weights(named, masters), "must hold \"matrix\"");
  expect_equal(optimizer.master_weights(named), before);
  NamedParameters half;
  half.insert("bias", named["bias"]);
  EXPECT_THROW_WITH(optimizer.master_weights(half), "every parameter must be named");
}

}  // namespace
}  // namespace mezzo::optim
