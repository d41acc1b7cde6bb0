// What the families have in common; what each has of its own: gpt2_test.cpp, llama_test.cpp.
#include "mezzo/models/language_model.h"

#include <cmath>
#include <optional>
#include <ostream>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/memory.h"
#include "mezzo/models/make_model.h"
#include "tests/close.h"
#include "tests/models/llama_tiny.h"
#include "tests/models/roundings.h"
#include "tests/testing.h"

namespace mezzo::models {

void PrintTo(const ModelConfig& config, std::ostream* out) {
  *out << (config.family == Family::kGPT2 ? "GPT2" : config.tied ? "Llama" : "LlamaWithAHead");
}

namespace {

using testing::magnitude_of;

constexpr int64_t kB = 3, kT = 16, kVocabulary = 64;

at::Tensor tokens(int64_t shift = 0) {
  return (at::arange(kB * kT).mul(7) + shift).remainder(kVocabulary).view({kB, kT});
}

std::vector<ModelConfig> families() {
  return {{.layers = 2, .heads = 2, .width = 32, .context = kT, .vocab_size = kVocabulary},
          tiny_llama_config(/*is_tied=*/true),
          tiny_llama_config(/*is_tied=*/false)};
}

struct Pass {
  at::Tensor loss;
  std::vector<at::Tensor> grads;
};

Pass pass(LanguageModel& model, std::optional<at::ScalarType> autocast_dtype) {
  model->zero_grad();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, autocast_dtype, autocast_dtype.has_value());
    loss = model->loss(tokens(), tokens(1));
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

class EachFamily : public ::testing::TestWithParam<ModelConfig> {
 protected:
  ModelConfig config = GetParam();
  LanguageModel model = make_language_model(config, /*seed=*/5);
};

TEST_P(EachFamily, ALaterTokenDoesNotChangeEarlierLogits) {
  const at::Tensor before = model->forward(tokens());
  for (const int64_t changed : {1, 7, 15}) {
    at::Tensor other = tokens().clone();
    other.select(1, changed).add_(1).remainder_(kVocabulary);
    const at::Tensor after = model->forward(other);
    EXPECT_BIT_EQUAL(after.slice(1, 0, changed), before.slice(1, 0, changed));
    EXPECT_GT(magnitude_of(after.select(1, changed) - before.select(1, changed)), 0.0);
  }
}

TEST_P(EachFamily, AShorterSequenceHasTheLogitsOfItsBeginning) {
  model->to(at::kDouble);
  const at::Tensor whole = model->forward(tokens());
  const double tolerance =
      2 * tolerance_for(at::kDouble, forward_length(config, kT), magnitude_of(whole));
  for (const int64_t T : {1, 5})
    EXPECT_CLOSE(model->forward(tokens().slice(1, 0, T)), whole.slice(1, 0, T), tolerance);
}

// Of normalised rows and weights of deviation 0.02 the logits have variance width * 0.02^2, which
// adds half of it to the loss, and the mean of N logits, those of the targets, strays by its root
// over N's: 4 deviations.
TEST_P(EachFamily, StartsAtTheLossOfGuessing) {
  const double loss = model->loss(tokens(), tokens(1)).item<double>();
  const double variance = static_cast<double>(config.width) * 0.02 * 0.02;
  EXPECT_NEAR(loss, std::log(static_cast<double>(kVocabulary)) + variance / 2,
              4 * std::sqrt(variance / (kB * kT)));
}

TEST_P(EachFamily, OneSeedMeansOneModelWhateverElseDrawsNumbers) {
  at::manual_seed(1);
  const LanguageModel first = make_language_model(config, 5);
  at::manual_seed(2);
  at::rand({3});
  const LanguageModel second = make_language_model(config, 5),
                      other = make_language_model(config, 6);
  for (const auto& parameter : first->named_parameters()) {
    SCOPED_TRACE(parameter.key());
    const at::Tensor& value = parameter.value();
    EXPECT_BIT_EQUAL(second->named_parameters()[parameter.key()], value);
    if (value.dim() == 2) {
      EXPECT_FALSE(testing::is_bit_equal(other->named_parameters()[parameter.key()], value));
    }
  }
}

TEST_P(EachFamily, ConstructionLeavesTheGlobalGeneratorAlone) {
  at::manual_seed(3);
  const at::Tensor expected = at::rand({4});
  at::manual_seed(3);
  const LanguageModel another = make_language_model(config, 5);
  EXPECT_BIT_EQUAL(at::rand({4}), expected);
}

TEST_P(EachFamily, DropoutActsInTrainingOnly) {
  config.dropout = 0.5;
  LanguageModel dropping = make_language_model(config);
  EXPECT_FALSE(testing::is_bit_equal(dropping->forward(tokens()), dropping->forward(tokens())));
  dropping->eval();
  EXPECT_BIT_EQUAL(dropping->forward(tokens()), dropping->forward(tokens()));
}

TEST_P(EachFamily, ComputesInTheDtypeOfItsParameters) {
  model->to(at::kBFloat16);
  EXPECT_EQ(model->forward(tokens()).scalar_type(), at::kBFloat16);
}

TEST_P(EachFamily, IgnoresTargetsOfMinusHundred) {
  model->to(at::kDouble);
  at::Tensor masked = tokens(1).clone();
  masked.slice(0, 1).fill_(-100);  // only the first sequence counts
  const at::Tensor expected = model->loss(tokens().slice(0, 0, 1), tokens(1).slice(0, 0, 1));
  EXPECT_CLOSE(model->loss(tokens(), masked), expected,
               2 * tolerance_for(at::kDouble, loss_length(config, kB, kT), magnitude_of(expected)));
}

TEST_P(EachFamily, RefusesSequencesLongerThanTheContext) {
  const at::Tensor text = at::zeros({1, kT + 1}, at::kLong);
  EXPECT_THROW_WITH(model->forward(text), "at most the context of 16 tokens long, but is 17");
  EXPECT_THROW_WITH(model->loss(text, text), "[LanguageModel.loss] a sequence must be at most");
}

TEST_P(EachFamily, RefusesTokensOfAnotherShapeOrType) {
  EXPECT_THROW_WITH(model->forward(at::zeros({8}, at::kLong)), "shape [B, T], but have [8]");
  EXPECT_THROW_WITH(model->forward(at::zeros({1, 8})), "tokens must be int64, but are Float");
  EXPECT_THROW_WITH(model->forward(at::zeros({0, 8}, at::kLong)), "tokens must not be empty");
  EXPECT_THROW_WITH(model->loss(tokens(), tokens().slice(1, 1)), "[3, 16], but have [3, 15]");
  EXPECT_THROW_WITH(model->loss(tokens(), tokens().to(at::kInt)),
                    "targets must be int64, but are Int");
}

// ---- The fused ops against libtorch's one by one: the same model, the same numbers.

TEST_P(EachFamily, FusedOpsGiveLossAndGradientsOfTheOpsOneByOneInFp32) {
  const Pass fused = pass(model, std::nullopt);
  model->set_fused(false);
  const Pass plain = pass(model, std::nullopt);
  EXPECT_CLOSE(
      fused.loss, plain.loss,
      2 * tolerance_for(at::kFloat, loss_length(config, kB, kT), magnitude_of(plain.loss)));
  for (size_t i = 0; i < plain.grads.size(); ++i) {
    EXPECT_EQ(fused.grads[i].scalar_type(), at::kFloat);
    EXPECT_CLOSE(
        fused.grads[i], plain.grads[i],
        2 * tolerance_for(at::kFloat, grad_length(config, kB, kT), magnitude_of(plain.grads[i])))
        << i;
  }
}

TEST_P(EachFamily, KeepsFp32GradientsAtFp32WeightsUnderAutocast) {
  for (const bool is_fused : {true, false}) {
    model->set_fused(is_fused);
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
      const Pass cast = pass(model, dtype);
      EXPECT_EQ(cast.loss.scalar_type(), at::kFloat);
      for (const at::Tensor& grad : cast.grads) {
        EXPECT_EQ(grad.scalar_type(), at::kFloat);
        EXPECT_FALSE(grad.is_sparse());
      }
    }
  }
}

// Matrices in bf16 beside norms in fp32, as the split weights of an optimizer are.
TEST_P(EachFamily, KeepsTheResidualStreamInTheNormsDtype) {
  for (const auto& item : model->named_parameters())
    if (item.value().dim() >= 2) item.value().set_data(item.value().to(at::kBFloat16));
  for (const bool is_fused : {true, false}) {
    model->zero_grad();
    model->set_fused(is_fused);
    const Autocast autocast(at::kCPU, at::kBFloat16);
    EXPECT_EQ(model->features(tokens()).scalar_type(), at::kFloat);
    model->loss(tokens(), tokens(1)).backward();
    for (const auto& item : model->named_parameters())
      EXPECT_EQ(item.value().grad().scalar_type(), item.value().scalar_type()) << item.key();
  }
}

// libtorch's fused attention has no second derivative.
struct PlainAttention {
  PlainAttention() { at::globalContext().setSDPUseFlash(false); }
  ~PlainAttention() { at::globalContext().setSDPUseFlash(true); }
};

TEST_P(EachFamily, WithoutFusedOpsCanBeDifferentiatedTwice) {
  const PlainAttention plain_attention;
  model->set_fused(false);
  const std::vector<at::Tensor> parameters = model->parameters();
  const auto grads = torch::autograd::grad({model->loss(tokens(), tokens(1))}, parameters, {},
                                           /*retain_graph=*/true, /*create_graph=*/true);
  at::Tensor penalty = at::zeros({});
  for (const at::Tensor& grad : grads) penalty = penalty + grad.square().sum();
  const at::Tensor second = torch::autograd::grad({penalty}, {parameters.front()}).front();
  EXPECT_GT(magnitude_of(second), 0.0);
}

// ---- Recomputation

TEST_P(EachFamily, EveryLevelOfRecomputationGivesTheSameBits) {
  for (const std::optional<at::ScalarType> dtype :
       {std::optional<at::ScalarType>(), std::optional(at::kBFloat16), std::optional(at::kHalf)}) {
    model->set_recompute(Recompute::kElementwise);
    const Pass elementwise = pass(model, dtype);
    model->set_recompute(Recompute::kNone);
    expect_same_bits(pass(model, dtype), elementwise);
    model->set_recompute(Recompute::kLayer, mezzo::checkpoint);
    expect_same_bits(pass(model, dtype), elementwise);
  }
}

TEST_P(EachFamily, EveryLevelOfRecomputationKeepsLessThanTheOneBefore) {
  const TensorMemoryMeter meter;
  config.layers = 4;
  config.context = 64;
  LanguageModel deep = make_language_model(config);
  const at::Tensor zeros = at::zeros({4, 64}, at::kLong);
  std::vector<int64_t> kept;
  for (const Recompute level : {Recompute::kNone, Recompute::kElementwise, Recompute::kLayer}) {
    deep->set_recompute(level, mezzo::checkpoint);
    const Autocast autocast(at::kCPU, at::kBFloat16);
    const int64_t before = meter.current_bytes();
    const at::Tensor loss = deep->loss(zeros, zeros);
    kept.push_back(meter.current_bytes() - before);
  }
  EXPECT_LT(kept[1], kept[0]);
  EXPECT_LT(kept[2], kept[1] / 2);
}

TEST_P(EachFamily, RecomputationByLayerNeedsAFunctionThatCheckpoints) {
  EXPECT_THROW_WITH(model->set_recompute(Recompute::kLayer), "Hint: mezzo::checkpoint");
}

INSTANTIATE_TEST_SUITE_P(All, EachFamily, ::testing::ValuesIn(families()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace mezzo::models
