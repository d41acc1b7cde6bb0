#include "mezzo/train/range_warning.h"

#include <cmath>

#include <ATen/ops/full.h>

#include "mezzo/train/run_config.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Health with_activations(double largest, at::ScalarType dtype) {
  Health health;
  health.modules.resize(1);
  health.modules[0].module = "h.3.mlp";
  health.modules[0].activations.add(at::full({4}, largest, dtype));
  return health;
}

Health with_gradients(const at::Tensor& gradients) {
  Health health;
  health.modules.resize(1);
  health.modules[0].module = "h.3.mlp";
  health.modules[0].gradients.add(gradients);
  return health;
}

TEST(RangeWarning, IsSilentWhileNumbersStayWhereTheyAre) {
  RangeWarning warning(true);
  for (int64_t step = 50; step <= 2000; step += 50)
    EXPECT_THAT(warning.observe(step, with_activations(40 + 10 * std::sin(step), at::kHalf)),
                IsEmpty());
}

TEST(RangeWarning, ForeseesWhenActivationsThatDoubleLeaveFp16) {
  RangeWarning warning(true);
  std::vector<std::string> said;
  int64_t told_at = 0;
  for (int64_t step = 50; step <= 500; step += 50) {  // doubles every 50 steps from 128 on
    const Health health = with_activations(64 * std::exp2(step / 50.0), at::kHalf);
    for (const std::string& text : warning.observe(step, health)) {
      if (told_at == 0) told_at = step;
      said.push_back(text);
    }
    if (step == 450) break;  // 32768
  }
  ASSERT_FALSE(said.empty());
  EXPECT_LE(told_at, 200);
  EXPECT_THAT(said.front(), HasSubstr("h.3.mlp: activations double every 50 steps: 1.02e+03 now, "
                                      "and at that pace beyond fp16's largest number, 65504, near "
                                      "step 500"));
}

TEST(RangeWarning, TellsOfActivationsNextToTheEndOnceUntilItIsTwiceAsBad) {
  RangeWarning warning(true);
  EXPECT_THAT(
      warning.observe(50, with_activations(40000, at::kHalf)),
      ElementsAre("h.3.mlp: activations reach 4e+04 in fp16, whose largest number is 65504"));
  EXPECT_THAT(warning.observe(100, with_activations(41000, at::kHalf)), IsEmpty());
}

TEST(RangeWarning, TellsOfASlowExplosionInAnyDtype) {
  RangeWarning warning(true);
  EXPECT_THAT(warning.observe(50, with_activations(2, at::kBFloat16)), IsEmpty());
  EXPECT_THAT(warning.observe(100, with_activations(4096, at::kBFloat16)),
              ElementsAre("h.3.mlp: activations have grown 2048-fold, to 4.1e+03"));
}

TEST(RangeWarning, AScaleThatIsSearchedForMayKeepGradientsNearTheEnd) {
  const Health health = with_gradients(at::full({4}, 50000, at::kHalf));
  EXPECT_THAT(RangeWarning(true).observe(50, health), IsEmpty());
  EXPECT_THAT(RangeWarning(false).observe(50, health),
              ElementsAre(HasSubstr("h.3.mlp: gradients reach 5e+04 in fp16")));
}

TEST(RangeWarning, TellsOfGradientsThatVanish) {
  at::Tensor gradients = at::full({100}, 1e-6, at::kHalf);
  EXPECT_THAT(RangeWarning(true).observe(50, with_gradients(gradients)), IsEmpty())
      << "subnormal, but none is lost";
  gradients.slice(0, 0, 60).zero_();
  EXPECT_THAT(
      RangeWarning(true).observe(50, with_gradients(gradients)),
      ElementsAre(HasSubstr("h.3.mlp: gradients vanish in fp16: 60 % are zero, and 100 % of "
                            "the others subnormal")));
  at::Tensor sparse = at::full({100}, 1.0, at::kHalf);
  sparse.slice(0, 0, 60).zero_();
  EXPECT_THAT(RangeWarning(true).observe(50, with_gradients(sparse)), IsEmpty())
      << "zeros that are no underflow";
}

TEST(RangeWarning, TellsOfUpdatesThatRoundingUndoes) {
  Health health;
  health.parameters.resize(3);
  health.parameters[0].name = "wte.weight";
  health.parameters[1].name = "h.0.mlp.c_fc.weight";
  health.parameters[1].weights.dtype = at::kBFloat16;
  health.parameters[1].lost_update = 0.93;
  health.parameters[2].lost_update = 0.1;
  RangeWarning warning(true);
  EXPECT_THAT(
      warning.observe(50, health),
      ElementsAre(HasSubstr("rounding undoes 93 % of the updates of h.0.mlp.c_fc.weight, and "
                            "more than half of 1 of 3 parameters: bf16 is too coarse")));
  EXPECT_THAT(warning.observe(100, health), IsEmpty());
}

}  // namespace
}  // namespace mezzo::train
