#include "mezzo/models/generate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>

#include "mezzo/base/check.h"
#include "mezzo/models/eval_guard.h"

namespace mezzo::models {
namespace {

void check_options(const std::vector<int64_t>& prompt, int64_t count, const SampleOptions& options,
                   int64_t vocab_size) {
  MEZZO_CHECK(!prompt.empty(), "sample",
              "prompt must hold at least one token, but is empty. Hint: start with the "
              "end-of-text token");
  for (const int64_t id : prompt) {
    MEZZO_CHECK(id >= 0 && id < vocab_size, "sample", "a prompt id must be in [0, {}), but is {}",
                vocab_size, id);
  }
  MEZZO_CHECK(count >= 0, "sample", "count must be >= 0, but is {}", count);
  MEZZO_CHECK(options.temperature >= 0 && std::isfinite(options.temperature), "sample",
              "temperature must be >= 0 (0: greedy), but is {}", options.temperature);
  MEZZO_CHECK(options.top_k >= 0, "sample", "top_k must be >= 0 (0: all), but is {}",
              options.top_k);
  MEZZO_CHECK(options.vocab_size >= 0 && options.vocab_size <= vocab_size, "sample",
              "vocab_size must be in [0, {}] (0: all), but is {}", vocab_size, options.vocab_size);
  const int64_t drawn_from = options.vocab_size == 0 ? vocab_size : options.vocab_size;
  for (const int64_t id : options.never) {
    MEZZO_CHECK(id >= 0 && id < drawn_from, "sample",
                "an id that is never drawn must be in [0, {}), but is {}", drawn_from, id);
  }
}

// The length of what the model is given. For each other length cuDNN plans its attention anew,
// which takes longer than the token: a GPU is given few of them. No token sees those after it.
int64_t padded(int64_t length, int64_t context, at::Device device) {
  constexpr int64_t kStep = 128;
  return device.is_cuda() ? std::min((length + kStep - 1) / kStep * kStep, context) : length;
}

/// logits [1, V] of the token after the last `context` of `text`, on the CPU and in the default
/// dtype: probabilities in 16 bits would be coarser than the differences between them.
at::Tensor next_logits(LanguageModel& model, const std::vector<int64_t>& text) {
  const auto length = std::min<int64_t>(std::ssize(text), model->config().context);
  const at::Device device = model->device();
  std::vector<int64_t> window(text.end() - length, text.end());
  window.resize(static_cast<size_t>(padded(length, model->config().context, device)));
  const auto features = model->features(at::tensor(window).unsqueeze(0).to(device));
  const auto logits = model->head(features.select(1, length - 1));
  return logits.to(at::kCPU, c10::get_default_dtype_as_scalartype());
}

int64_t draw(const at::Tensor& logits, const SampleOptions& options, at::Generator& generator) {
  if (options.temperature == 0) {
    return logits.argmax(-1).item<int64_t>();
  }
  const int64_t V = logits.size(-1);
  const int64_t k = options.top_k == 0 ? V : std::min(options.top_k, V);
  const auto [values, ids] = at::topk(logits, k, -1);
  const auto likeliest = values.select(-1, 0).unsqueeze(-1);
  // The difference first: a tiny temperature then gives 0 and -inf, never inf - inf. One that is 0
  // in fp32 would give 0 / 0.
  const double temperature =
      std::max<double>(options.temperature, std::numeric_limits<float>::min());
  const auto probabilities = at::softmax((values - likeliest) / temperature, -1);
  const auto rank = at::multinomial(probabilities, 1, /*replacement=*/false, generator);
  return ids.gather(-1, rank).item<int64_t>();
}

}  // namespace

std::vector<int64_t> sample(LanguageModel model, const std::vector<int64_t>& prompt, int64_t count,
                            const SampleOptions& options,
                            const std::function<bool(int64_t id)>& on_token) {
  check_options(prompt, count, options, model->config().vocab_size);
  const at::NoGradGuard no_grad;
  const EvalGuard eval(*model);
  const at::Tensor never = at::tensor(options.never, at::kLong);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  std::vector<int64_t> text = prompt;
  for (int64_t i = 0; i < count; ++i) {
    auto logits = next_logits(model, text);
    if (options.vocab_size > 0) {
      logits = logits.slice(-1, 0, options.vocab_size);
    }
    MEZZO_CHECK(at::isfinite(logits).all().item<bool>(), "sample",
                "logits must be finite, but are not at token {}. Hint: the weights may have "
                "diverged; look at them with `mezzo doctor`",
                i);
    logits.index_fill_(-1, never, -std::numeric_limits<double>::infinity());
    text.push_back(draw(logits, options, generator));
    if (on_token && !on_token(text.back())) break;
  }
  return {text.begin() + std::ssize(prompt), text.end()};
}

}  // namespace mezzo::models
