#include "mezzo/train/bench_step.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <vector>

#include <ATen/ops/randint.h>

#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/check.h"
#include "mezzo/base/median.h"
#include "mezzo/base/memory.h"
#include "mezzo/train/step.h"

namespace mezzo::train {
namespace {

constexpr int64_t kWarmUpSteps = 3;
constexpr double kLr = 3e-4;

struct Shape {
  std::string_view model;
  int64_t batch;
  int64_t length;
};

// The same table stands in bench/README.md and bench/peers/pytorch_step.py.
constexpr std::array<Shape, 3> kShapes = {{{"nano", 8, 256}, {"mini", 16, 256}, {"gpt2", 2, 512}}};

Shape shape_of(const StepBenchOptions& options) {
  Shape shape{options.model, 1, models::gpt2_preset(options.model).context};
  for (const Shape& known : kShapes) {
    if (known.model == options.model) shape = known;
  }
  shape.batch = options.batch.value_or(shape.batch);
  return shape;
}

models::GPT2 model_of(const StepBenchOptions& options, const PrecisionMode& mode) {
  models::GPT2 model(models::gpt2_preset(options.model), /*seed=*/1);
  model->to(mode.weights);
  model->set_recompute(models::recompute_level(options.recompute), mezzo::checkpoint);
  return model;
}

StepOptions step_options(const StepBenchOptions& options) {
  return {.clip = options.releases_gradients ? 0.0 : 1.0,
          .releases_gradients = options.releases_gradients};
}

double milliseconds_of(BenchStep& step) {
  const auto begin = std::chrono::steady_clock::now();
  step.run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

}  // namespace

BenchStep::BenchStep(const StepBenchOptions& options, StepWatch* watch)
    : mode_(precision_mode(options.precision)),
      model_(model_of(options, mode_)),
      optimizer_(model_, mode_, optim::AdamWOptions(kLr).betas({0.9, 0.95}).weight_decay(0.1)),
      scaler_(at::kCPU, {.enabled = mode_.scales_loss}),
      step_(model_, optimizer_, scaler_, mode_, step_options(options), watch) {
  const Shape shape = shape_of(options);
  MEZZO_CHECK_USAGE(shape.batch >= 1, "bench step", "--batch must be at least 1, but is {}",
                    shape.batch);
  batch_ = shape.batch;
  length_ = shape.length;
  const at::Tensor windows =
      at::randint(model_->config().vocab_size, {batch_, length_ + 1}, at::kLong);
  batches_ = {
      {windows.narrow(1, 0, length_).contiguous(), windows.narrow(1, 1, length_).contiguous()}};
}

void BenchStep::run() { step_.run(batches_, kLr); }

StepBenchResult bench_step(const StepBenchOptions& options) {
  MEZZO_CHECK_USAGE(options.steps >= 1, "bench step", "--steps must be at least 1, but is {}",
                    options.steps);
  TensorMemoryMeter memory;
  if (options.budget.has_value()) memory.set_budget(*options.budget);
  BenchStep step(options);
  for (int64_t i = 0; i < std::min(kWarmUpSteps, options.steps); ++i) milliseconds_of(step);
  std::vector<double> times;
  for (int64_t i = 0; i < options.steps; ++i) times.push_back(milliseconds_of(step));

  StepBenchResult result;
  result.batch = step.batch();
  result.length = step.length();
  result.min_ms = *std::min_element(times.begin(), times.end());
  result.median_ms = median(times);
  result.tokens_per_s = 1e3 * static_cast<double>(step.batch() * step.length()) / result.median_ms;
  result.peak_tensor_bytes = memory.peak_bytes();
  result.peak_rss_bytes = peak_rss_bytes();
  return result;
}

}  // namespace mezzo::train
