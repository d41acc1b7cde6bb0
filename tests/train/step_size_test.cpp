#include "mezzo/train/step_size.h"

#include <atomic>

#include "mezzo/base/check.h"
#include "mezzo/train/bench_step.h"
#include "mezzo/train/compare.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/trainer.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;

constexpr int64_t kAbsurd = 2147483647;  // the largest size that an option takes

TEST(StepSize, NoStepTakesLess) {
  const std::atomic<bool> never = false;
  for (const PrecisionMode& mode : precision_modes()) {
    for (const auto& [is_long, is_llama] :
         {std::pair(false, false), {true, false}, {false, true}}) {
      const TempDir dir;
      TinyRun run(dir.path());
      run.config.precision = mode.name;
      run.config.recompute = "layer";
      run.config.layers = 4;
      if (is_long) run.config.batch = 64;
      if (is_llama) run.use_llama();
      run.config.steps = 2;
      report::Sinks sinks;
      Trainer trainer(run.config, dir / "run", run.tokens, sinks);
      const models::ModelConfig& model = trainer.model()->config();
      EXPECT_LE(least_bytes({model, run.config.batch, model.context}, mode),
                static_cast<double>(trainer.run(never).peak_tensor_bytes))
          << mode.name;
    }
  }
}

TEST(StepSize, WhatTheMachineCannotHoldIsRefusedWithItsSizes) {
  const StepSize gpt2{models::model_preset("nano"), 8, 256};
  const PrecisionMode& mode = precision_mode("fp32");
  EXPECT_NO_THROW(check_fits_machine(gpt2, mode, at::kCPU));
  StepSize deep = gpt2, wide = gpt2, many = gpt2, accumulated = gpt2;
  deep.model.layers = wide.model.width = many.batch = accumulated.accumulate = kAbsurd;
  for (const StepSize& step : {deep, wide, many, accumulated})
    EXPECT_THROW_WITH(check_fits_machine(step, mode, at::kCPU), "2147483647");
  EXPECT_THROW_WITH(check_fits_machine(deep, mode, at::kCUDA), "layers 2147483647, width 256");
  EXPECT_NO_THROW(check_fits_machine(many, mode, at::kCUDA)) << "the GPU's allocator's to say";
}

TEST(StepSize, IsLookedAtBeforeAModelIsMade) {
  RunConfig config;
  config.layers = kAbsurd;
  EXPECT_THROW_WITH(make_model(config, precision_mode("fp32"), at::kCPU), "layers 2147483647");
  CompareConfig compared;
  compared.run = config;
  compared.modes = {"fp32"};
  EXPECT_THROW_WITH(check_compare(compared), "layers 2147483647");
  StepBenchOptions options;
  options.batch = kAbsurd;
  EXPECT_THROW_WITH(bench_step(options), "batch 2147483647");
}

}  // namespace
}  // namespace mezzo::train
