#include "mezzo/train/evaluate.h"

#include <cmath>
#include <string>

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "mezzo/base/memory.h"
#include "mezzo/models/gpt2.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

constexpr int64_t kVocabulary = 32, kLength = 8;

models::GPT2 model() {
  return models::GPT2(models::ModelConfig{.layers = 1,
                                          .heads = 2,
                                          .width = 16,
                                          .context = kLength,
                                          .vocab_size = kVocabulary,
                                          .dropout = 0.5},
                      7);
}

std::vector<Batch> batches(int64_t count) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  std::vector<Batch> result;
  for (int64_t i = 0; i < count; ++i) {
    const auto tokens = [&] {
      return at::randint(kVocabulary, {4, kLength}, generator, at::TensorOptions(at::kLong));
    };
    result.push_back({tokens(), tokens()});
  }
  return result;
}

/// How often a number is read from a tensor while it lives: each time a GPU would be waited for.
class Reads {
 public:
  Reads() {
    count_ = 0;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&on_op));
  }
  ~Reads() { at::removeCallback(handle_); }
  int count() const { return count_; }

 private:
  static std::unique_ptr<at::ObserverContext> on_op(const at::RecordFunction& op) {
    count_ += op.name() == std::string("aten::_local_scalar_dense") ? 1 : 0;
    return nullptr;
  }
  inline static int count_ = 0;
  at::CallbackHandle handle_;
};

TEST(Evaluate, IsTheMeanOfTheBatches) {
  models::GPT2 gpt = model();
  double loss = 0.0, accuracy = 0.0;
  for (const Batch& batch : batches(3)) {
    const Evaluation one = evaluate(gpt, precision_mode("fp32"), {batch});
    loss += one.loss;
    accuracy += one.accuracy;
  }
  const Evaluation all = evaluate(gpt, precision_mode("fp32"), batches(3));
  EXPECT_EQ(all.loss, loss / 3);  // sums in fp64, in the order of the batches
  EXPECT_DOUBLE_EQ(all.accuracy, accuracy / 3);
  // The final norm makes rows of length sqrt(width): no logit is larger, and no loss farther from
  // that of a model that knows nothing than twice that.
  const double width = static_cast<double>(gpt->config().width),
               longest = gpt->wte->weight.norm(2, /*dim=*/1).max().item<double>();
  EXPECT_NEAR(all.loss, std::log(kVocabulary), 2 * std::sqrt(width) * longest);
  EXPECT_TRUE(gpt->is_training());
}

TEST(Evaluate, CountsEveryTokenAlikeWhereTheLastBatchIsShorter) {
  models::GPT2 gpt = model();
  std::vector<Batch> given = batches(2);
  for (at::Tensor* tensor : {&given[1].tokens, &given[1].targets})
    *tensor = tensor->narrow(0, 0, 1);
  const Evaluation four = evaluate(gpt, precision_mode("fp32"), {given[0]}),
                   one = evaluate(gpt, precision_mode("fp32"), {given[1]}),
                   all = evaluate(gpt, precision_mode("fp32"), given);
  EXPECT_DOUBLE_EQ(all.loss, (4 * four.loss + one.loss) / 5);
  EXPECT_DOUBLE_EQ(all.accuracy, (4 * four.accuracy + one.accuracy) / 5);
}

TEST(Evaluate, LeavesTheModelInTheModeThatItWasInAlsoWhereItFails) {
  models::GPT2 gpt = model();
  std::vector<Batch> given = batches(1);
  given[0].tokens.fill_(kVocabulary);
  EXPECT_ANY_THROW(evaluate(gpt, precision_mode("fp32"), given));
  EXPECT_TRUE(gpt->is_training());
  gpt->eval();
  evaluate(gpt, precision_mode("fp32"), batches(1));
  EXPECT_FALSE(gpt->is_training());
}

// Two of its sequences have 2^22 logits.
TEST(Evaluate, IsTheSameInPiecesAndNeedsNoMoreMemoryThanThose) {
  models::GPT2 gpt(
      models::ModelConfig{
          .layers = 1, .heads = 2, .width = 16, .context = 32, .vocab_size = 1 << 16},
      7);
  std::vector<Batch> whole(1), parts;
  for (at::Tensor* tensor : {&whole[0].tokens, &whole[0].targets})
    *tensor = at::randint(1 << 16, {6, 32}, at::make_generator<at::CPUGeneratorImpl>(3),
                          at::TensorOptions(at::kLong));
  for (int64_t i = 0; i < 6; i += 2)
    parts.push_back({whole[0].tokens.narrow(0, i, 2), whole[0].targets.narrow(0, i, 2)});
  const TensorMemoryMeter memory;
  const int64_t before = memory.peak_bytes();
  const Evaluation all = evaluate(gpt, precision_mode("fp32"), whole);
  EXPECT_LT(memory.peak_bytes() - before, int64_t{3} << 24) << "logits and their log softmax";
  // Logits, of 16 products of numbers below 4, may add up in another order.
  EXPECT_NEAR(all.loss, evaluate(gpt, precision_mode("fp32"), parts).loss, 16 * 16 * 0x1p-24);
}

TEST(Evaluate, ReadsNothingOfASingleBatch) {
  models::GPT2 gpt = model();
  const std::vector<Batch> given = batches(3);
  const Reads reads;
  for (const Batch& batch : given) gpt->forward(batch.tokens);  // on a CPU it reads the tokens
  const int in_forward = reads.count();
  given.front().tokens.max().item<int64_t>();
  ASSERT_EQ(reads.count(), in_forward + 1) << "a read is seen";
  evaluate(gpt, precision_mode("fp32"), given);
  EXPECT_EQ(reads.count(), 2 * in_forward + 1);
}

}  // namespace
}  // namespace mezzo::train
