#include "mezzo/models/generate.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using Tokens = std::vector<int64_t>;

at::Tensor last_logits(GPT2& model, const Tokens& text) {
  return model(at::tensor(text).unsqueeze(0)).select(1, -1).squeeze(0);
}

TEST(Sample, GreedyFollowsTheLargestLogitAcrossTheContextsEnd) {
  GPT2 model = tiny_gpt2(at::kFloat);
  Tokens text{3, 1, 4}, expected;
  for (int i = 0; i < 20; ++i) {  // the context is 16
    const auto from = std::max<int64_t>(std::ssize(text) - 16, 0);
    expected.push_back(
        last_logits(model, Tokens(text.begin() + from, text.end())).argmax().item<int64_t>());
    text.push_back(expected.back());
  }
  EXPECT_EQ(sample(model, {3, 1, 4}, 20, {.temperature = 0}), expected);
}

TEST(SampleOnGpu, GreedyWritesWhatTheCpuWrites) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  GPT2 model = tiny_gpt2(at::kFloat);
  const Tokens want = sample(model, {3, 1, 4}, 20, {.temperature = 0});
  model->to(at::kCUDA);
  EXPECT_EQ(sample(model, {3, 1, 4}, 20, {.temperature = 0}), want);
}

TEST(Sample, OneSeedMeansOneText) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const auto first = sample(model, {1}, 30, {.seed = 7});
  at::rand({5});
  EXPECT_EQ(sample(model, {1}, 30, {.seed = 7}), first);
  EXPECT_NE(sample(model, {1}, 30, {.seed = 8}), first);
}

TEST(Sample, TellsOfEachTokenAndEndsWhenItIsTold) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const auto all = sample(model, {1}, 30, {.seed = 7});
  Tokens told;
  const auto some = sample(model, {1}, 30, {.seed = 7}, [&](int64_t id) {
    told.push_back(id);
    return told.size() < 5;
  });
  EXPECT_EQ(some, Tokens(all.begin(), all.begin() + 5));
  EXPECT_EQ(told, some);
}

TEST(Sample, LeavesTheGlobalGeneratorAndTheTrainingModeAlone) {
  GPT2 model = tiny_gpt2(at::kFloat);
  at::manual_seed(3);
  const auto expected = at::rand({1}).item<float>();
  at::manual_seed(3);
  sample(model, {1}, 5);
  EXPECT_EQ(at::rand({1}).item<float>(), expected);
  EXPECT_TRUE(model->is_training());
  model->eval();
  sample(model, {1}, 1);
  EXPECT_FALSE(model->is_training());
}

TEST(Sample, DrawsInProportionToTheSoftmax) {
  GPT2 model = tiny_gpt2(at::kDouble);
  const auto p = last_logits(model, {9}).div(0.7).softmax(0);
  const int64_t likeliest = p.argmax().item<int64_t>();
  const double expected = p[likeliest].item<double>();
  constexpr int kDraws = 1000;
  int hits = 0;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    hits += sample(model, {9}, 1, {.temperature = 0.7, .seed = seed})[0] == likeliest;
  }
  const double sigma = std::sqrt(expected * (1 - expected) / kDraws);
  EXPECT_NEAR(static_cast<double>(hits) / kDraws, expected, 5 * sigma);
}

TEST(Sample, TopKDrawsOnlyAmongTheKLikeliest) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const auto [values, ids] = last_logits(model, {9}).topk(3);
  std::set<int64_t> drawn;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    drawn.insert(sample(model, {9}, 1, {.temperature = 5.0, .top_k = 3, .seed = seed})[0]);
  }
  const std::set<int64_t> expected{ids[0].item<int64_t>(), ids[1].item<int64_t>(),
                                   ids[2].item<int64_t>()};
  EXPECT_EQ(drawn, expected);
}

TEST(Sample, ATinyTemperatureIsGreedy) {
  GPT2 model = tiny_gpt2(at::kFloat);
  for (const double temperature : {1e-30, 1e-300})
    EXPECT_EQ(sample(model, {5}, 10, {.temperature = temperature}),
              sample(model, {5}, 10, {.temperature = 0}));
}

TEST(Sample, NeverDrawsAnIdThatIsNoToken) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const auto likeliest = std::get<1>(last_logits(model, {9}).topk(3));
  const int64_t first = likeliest[0].item<int64_t>(), second = likeliest[1].item<int64_t>(),
                third = likeliest[2].item<int64_t>();
  const auto drawn = [&](double temperature, int64_t top_k) {
    return sample(model, {9}, 1,
                  {.temperature = temperature, .top_k = top_k, .never = {first, second}})[0];
  };
  EXPECT_EQ(drawn(0, 0), third);
  EXPECT_EQ(drawn(1, 1), third);
  EXPECT_THROW_WITH(sample(model, {9}, 1, {.never = {-1}}), "that is never drawn");
}

TEST(Sample, NeverDrawsThePaddingOfTheVocabulary) {
  GPT2 model = tiny_gpt2(at::kFloat);
  for (const int64_t id : sample(model, {1}, 100, {.temperature = 5.0, .vocab_size = 10})) {
    EXPECT_LT(id, 10);
  }
}

TEST(Sample, RefusesWhatItCannotContinue) {
  GPT2 model = tiny_gpt2(at::kFloat);
  EXPECT_THROW_WITH(sample(model, {}, 1), "prompt must hold at least one token");
  EXPECT_THROW_WITH(sample(model, {64}, 1), "a prompt id must be in [0, 64), but is 64");
  EXPECT_THROW_WITH(sample(model, {1}, -1), "count must be >= 0, but is -1");
  EXPECT_THROW_WITH(sample(model, {1}, 1, {.temperature = -1}), "temperature must be >= 0");
  EXPECT_THROW_WITH(sample(model, {1}, 1, {.temperature = NAN}), "temperature must be >= 0");
  EXPECT_THROW_WITH(sample(model, {1}, 1, {.top_k = -2}), "top_k must be >= 0 (0: all), but is -2");
  EXPECT_THROW_WITH(sample(model, {1}, 1, {.vocab_size = 65}), "vocab_size must be in [0, 64]");
}

TEST(Sample, NamesADivergedModel) {
  GPT2 model = tiny_gpt2(at::kFloat);
  const at::NoGradGuard no_grad;
  model->ln_f->weight[0] = NAN;
  EXPECT_THROW_WITH(sample(model, {1}, 1), "logits must be finite, but are not at token 0");
}

}  // namespace
}  // namespace mezzo::models
