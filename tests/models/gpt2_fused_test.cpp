// The fused ops against libtorch's one by one: the same model, the same numbers.
#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/memory.h"
#include "mezzo/models/gpt2.h"
#include "tests/close.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

// The first batch of the golden run.
at::Tensor tokens() { return tiny_golden("tokens")[0]; }
at::Tensor targets() { return tiny_golden("targets")[0]; }

struct Pass {
  at::Tensor loss;
  std::vector<at::Tensor> grads;
};

Pass pass(GPT2& model, std::optional<at::ScalarType> autocast_dtype) {
  model->zero_grad();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, autocast_dtype, autocast_dtype.has_value());
    loss = model->loss(tokens(), targets());
  }
  loss.backward();
  Pass result{loss.detach(), {}};
  for (const at::Tensor& parameter : model->parameters()) result.grads.push_back(parameter.grad());
  return result;
}

void expect_same_bits(const Pass& a, const Pass& b) {
  EXPECT_BIT_EQUAL(a.loss, b.loss);
  for (size_t i = 0; i < a.grads.size(); ++i) EXPECT_BIT_EQUAL(a.grads[i], b.grads[i]) << i;
}

TEST(GPT2Fused, GivesLossAndGradientsOfTheOpsOneByOneInFp32) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const Pass fused = pass(model, std::nullopt);
  model->set_fused(false);
  const Pass plain = pass(model, std::nullopt);
  const ModelConfig config = tiny_config();
  const int64_t B = tokens().size(0), T = tokens().size(1);
  EXPECT_CLOSE(fused.loss, plain.loss,
               2 * tolerance_for(at::kFloat, loss_length(config, B, T),
                                 mezzo::testing::magnitude_of(plain.loss)));
  for (size_t i = 0; i < plain.grads.size(); ++i) {
    EXPECT_EQ(fused.grads[i].scalar_type(), at::kFloat);
    EXPECT_CLOSE(fused.grads[i], plain.grads[i],
                 2 * tolerance_for(at::kFloat, grad_length(config, B, T),
                                   mezzo::testing::magnitude_of(plain.grads[i])))
        << i;
  }
}

TEST(GPT2Fused, KeepsFp32GradientsAtFp32WeightsUnderAutocast) {
  GPT2 model = tiny_gpt2(at::kFloat);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    const Pass fused = pass(model, dtype);
    EXPECT_EQ(fused.loss.scalar_type(), at::kFloat);
    for (const at::Tensor& grad : fused.grads) {
      EXPECT_EQ(grad.scalar_type(), at::kFloat);
      EXPECT_FALSE(grad.is_sparse());
    }
  }
}

class GPT2RecomputeIn : public ::testing::TestWithParam<std::optional<at::ScalarType>> {};

TEST_P(GPT2RecomputeIn, EveryLevelGivesTheSameBits) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const Pass elementwise = pass(model, GetParam());
  model->set_recompute(Recompute::kNone);
  expect_same_bits(pass(model, GetParam()), elementwise);
  model->set_recompute(Recompute::kLayer, mezzo::checkpoint);
  expect_same_bits(pass(model, GetParam()), elementwise);
}

INSTANTIATE_TEST_SUITE_P(Modes, GPT2RecomputeIn,
                         ::testing::Values(std::nullopt, at::kBFloat16, at::kHalf),
                         [](const auto& param) {
                           return param.param ? c10::toString(*param.param) : "Fp32";
                         });

TEST(GPT2Recompute, EveryLevelKeepsLessThanTheOneBefore) {
  const TensorMemoryMeter meter;
  GPT2 model(ModelConfig{.layers = 4, .heads = 4, .width = 64, .context = 64, .vocab_size = 64});
  const at::Tensor zeros = at::zeros({4, 64}, at::kLong);
  std::vector<int64_t> kept;
  for (const Recompute level : {Recompute::kNone, Recompute::kElementwise, Recompute::kLayer}) {
    model->set_recompute(level, mezzo::checkpoint);
    const Autocast autocast(at::kCPU, at::kBFloat16);
    const int64_t before = meter.current_bytes();
    const at::Tensor loss = model->loss(zeros, zeros);
    kept.push_back(meter.current_bytes() - before);
  }
  EXPECT_LT(kept[1], kept[0]);
  EXPECT_LT(kept[2], kept[1] / 2);
}

TEST(GPT2Recompute, ByLayerNeedsAFunctionThatCheckpoints) {
  GPT2 model = tiny_gpt2(at::kFloat);
  EXPECT_THROW_WITH(model->set_recompute(Recompute::kLayer), "Hint: mezzo::checkpoint");
}

// Matrices in bf16 beside norms in fp32, as the split weights of an optimizer are.
TEST(GPT2Fused, KeepsTheResidualStreamInTheNormsDtype) {
  GPT2 model = tiny_gpt2(at::kFloat);
  for (const auto& item : model->named_parameters()) {
    if (item.value().dim() >= 2) item.value().set_data(item.value().to(at::kBFloat16));
  }
  const Autocast autocast(at::kCPU, at::kBFloat16);
  EXPECT_EQ(model->features(tokens()).scalar_type(), at::kFloat);
  model->loss(tokens(), targets()).backward();
  EXPECT_EQ(model->wte->weight.grad().scalar_type(), at::kBFloat16);
  EXPECT_EQ(model->ln_f->weight.grad().scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace mezzo::models
