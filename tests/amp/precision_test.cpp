#include "mezzo/amp/precision.h"

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

TEST(Precision, Fp32HasNothingIn16Bits) {
  const PrecisionMode& mode = precision_mode("fp32");
  EXPECT_EQ(mode.weights, at::kFloat);
  EXPECT_EQ(mode.compute(), at::kFloat);
  EXPECT_FALSE(mode.scales_loss);
}

TEST(Precision, AmpKeepsFp32WeightsAndComputesIn16Bits) {
  EXPECT_EQ(precision_mode("amp-fp16").weights, at::kFloat);
  EXPECT_EQ(precision_mode("amp-fp16").compute(), at::kHalf);
  EXPECT_EQ(precision_mode("amp-bf16").compute(), at::kBFloat16);
}

TEST(Precision, Bf16SplitsItsWeightsAndLeanAndFp8HaveNarrowMomentsToo) {
  for (const PrecisionMode& mode : precision_modes()) {
    const bool is_lean = mode.name == "lean" || mode.name == "fp8";
    EXPECT_EQ(mode.splits_weights, mode.name == "amp-bf16" || is_lean) << mode.name;
    EXPECT_EQ(mode.moment_bits == 8, is_lean) << mode.name;
  }
}

TEST(Precision, Fp8IsLeanWithFp8Products) {
  for (const PrecisionMode& mode : precision_modes())
    EXPECT_EQ(mode.fp8_products, mode.name == "fp8") << mode.name;
  const PrecisionMode &fp8 = precision_mode("fp8"), &lean = precision_mode("lean");
  EXPECT_EQ(fp8.weights, lean.weights);
  EXPECT_EQ(fp8.autocast, lean.autocast);
}

TEST(Precision, OnlyFp16UnderAutocastScalesItsLoss) {
  for (const PrecisionMode& mode : precision_modes())
    EXPECT_EQ(mode.scales_loss, mode.name == "amp-fp16") << mode.name;
}

TEST(Precision, PureModesHave16BitWeightsAndNoRegion) {
  EXPECT_EQ(precision_mode("pure-fp16").weights, at::kHalf);
  EXPECT_EQ(precision_mode("pure-bf16").weights, at::kBFloat16);
  EXPECT_FALSE(precision_mode("pure-fp16").autocast.has_value());
}

TEST(Precision, UnknownNameIsRefusedWithTheKnownOnes) {
  EXPECT_THROW_WITH(
      precision_mode("fp17"),
      "must be one of fp32, amp-fp16, amp-bf16, lean, fp8, pure-fp16, pure-bf16, but is 'fp17'");
}

}  // namespace
}  // namespace mezzo
