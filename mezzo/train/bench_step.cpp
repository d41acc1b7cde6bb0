#include "mezzo/train/bench_step.h"

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>
#include <vector>

#include <ATen/ops/randint.h>

#include "mezzo/amp/checkpoint.h"
#include "mezzo/base/check.h"
#include "mezzo/base/median.h"
#include "mezzo/base/memory.h"
#include "mezzo/base/stopwatch.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/models/make_model.h"
#include "mezzo/train/device.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/step.h"
#include "mezzo/train/step_size.h"

namespace mezzo::train {
namespace {

constexpr int64_t kWarmUpSteps = 3;
constexpr double kLr = 3e-4;

struct Shape {
  std::string_view model;
  int64_t batch;
  int64_t length;
};

// The same table stands in bench/README.md.
constexpr std::array<Shape, 5> kShapes = {{{"nano", 8, 256},
                                           {"mini", 16, 256},
                                           {"gpt2", 2, 512},
                                           {"llama-nano", 8, 256},
                                           {"smollm-135m", 2, 512}}};

Shape shape_of(const StepBenchOptions& options) {
  Shape shape{options.model, 1, models::model_preset(options.model).context};
  for (const Shape& known : kShapes) {
    if (known.model == options.model) shape = known;
  }
  shape.batch = options.batch.value_or(shape.batch);
  shape.length = options.length.value_or(shape.length);
  return shape;
}

models::LanguageModel model_of(const StepBenchOptions& options, const PrecisionMode& mode,
                               at::Device device) {
  const models::ModelConfig config = models::model_preset(options.model);
  const Shape shape = shape_of(options);
  if (!options.budget.has_value())  // which ends it as soon as it needs more
    check_fits_machine(
        {config, shape.batch, shape.length, options.accumulate, options.releases_gradients}, mode,
        device);
  const auto fp8 =
      fp8_scaling_for(mode, options.fp8_scaling, config, shape.batch * shape.length, device);
  models::LanguageModel model = models::make_language_model(config, /*seed=*/1);
  model->to(device, mode.weights);
  model->set_recompute(models::recompute_level(options.recompute), mezzo::checkpoint);
  model->set_fp8(fp8);
  return model;
}

StepOptions step_options(const StepBenchOptions& options) {
  return {.clip = options.releases_gradients ? 0.0 : 1.0,
          .releases_gradients = options.releases_gradients};
}

double milliseconds_of(const std::function<void()>& work) {
  const Stopwatch spent;
  work();
  return spent.ms();
}

}  // namespace

BenchStep::BenchStep(const StepBenchOptions& options, StepWatch* watch)
    : mode_(precision_mode(options.precision)),
      device_(ready_device(options.device)),
      model_(model_of(options, mode_, device_)),
      optimizer_(model_, mode_, optim::AdamWOptions(kLr).betas({0.9, 0.95}).weight_decay(0.1),
                 options.accumulate > 1),
      scaler_(device_, {.enabled = mode_.scales_loss}) {
  const Shape shape = shape_of(options);
  MEZZO_CHECK_USAGE(shape.batch >= 1, "bench step", "--batch must be at least 1, but is {}",
                    shape.batch);
  const int64_t context = model_->config().context;
  MEZZO_CHECK_USAGE(shape.length >= 1 && shape.length <= context, "bench step",
                    "--length must be from 1 to {}, the context of {}, but is {}", context,
                    options.model, shape.length);
  MEZZO_CHECK_USAGE(options.accumulate >= 1, "bench step",
                    "--accumulate must be at least 1, but is {}", options.accumulate);
  batch_ = shape.batch;
  length_ = shape.length;
  for (int64_t i = 0; i < options.accumulate; ++i) {
    const at::Tensor windows =
        at::randint(model_->config().vocab_size, {batch_, length_ + 1}, at::kLong).to(device_);
    batches_.push_back(
        {windows.narrow(1, 0, length_).contiguous(), windows.narrow(1, 1, length_).contiguous()});
  }
  make_step(step_options(options), watch);
}

void BenchStep::make_step(const StepOptions& options, StepWatch* watch) {
  if constexpr (kernels::kHasCuda) {
    if (device_.is_cuda() && !options.releases_gradients) {
      device_step_ = std::make_shared<DeviceStep>(model_, optimizer_, scaler_, mode_, options.clip);
      return;
    }
  }
  step_ = std::make_unique<Step>(model_, optimizer_, scaler_, mode_, options, watch);
}

void BenchStep::run() { time(1); }

std::vector<double> BenchStep::time(int64_t steps) {
  std::vector<double> times;
  if constexpr (kernels::kHasCuda) {
    if (device_step_ != nullptr) {
      const double all = milliseconds_of([&] {
        for (int64_t i = 0; i < steps; ++i) {
          device_step_->run(batches_, kLr);
          if (device_step_->pending() > 1) device_step_->take();
        }
        while (device_step_->pending() > 0) device_step_->take();
      });
      times.assign(static_cast<size_t>(steps), all / static_cast<double>(steps));
      return times;
    }
  }
  for (int64_t i = 0; i < steps; ++i)
    times.push_back(milliseconds_of([&] { step_->run(batches_, kLr); }));
  return times;
}

std::string BenchStep::note() const {
  if constexpr (kernels::kHasCuda) {
    if (device_step_ != nullptr && !device_step_->refusal().empty())
      return "not one CUDA graph: " + device_step_->refusal();
  }
  return fp8_note(mode_, device_);
}

StepBenchResult bench_step(const StepBenchOptions& options) {
  MEZZO_CHECK_USAGE(options.steps >= 1, "bench step", "--steps must be at least 1, but is {}",
                    options.steps);
  TensorMemoryMeter memory(ready_device(options.device));
  if (options.budget.has_value()) memory.set_budget(*options.budget);
  BenchStep step(options);
  // On a GPU the steps after these are one graph.
  const int64_t warm_up =
      options.device == "cpu" ? std::min(kWarmUpSteps, options.steps) : StepGraph::kWarmUpSteps + 1;
  step.time(warm_up);
  const std::vector<double> times = step.time(options.steps);

  StepBenchResult result;
  result.batch = step.batch();
  result.length = step.length();
  result.min_ms = *std::min_element(times.begin(), times.end());
  result.median_ms = median(times);
  result.tokens_per_s = 1e3 *
                        static_cast<double>(step.batch() * step.length() * options.accumulate) /
                        result.median_ms;
  result.peak_tensor_bytes = memory.peak_bytes();
  result.peak_rss_bytes = peak_rss_bytes();
  result.note = step.note();
  return result;
}

}  // namespace mezzo::train
