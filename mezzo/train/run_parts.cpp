#include "mezzo/train/run_parts.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "mezzo/amp/checkpoint.h"
#include "mezzo/models/make_model.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/rope_scaling.h"
#include "mezzo/train/step_size.h"

namespace mezzo::train {
namespace {

// An overflow halves the scale; eight halvings find any scale that a batch can bear after a sudden
// spike.
constexpr int64_t kMaxRetries = 8;

}  // namespace

models::ModelConfig model_config(const RunConfig& config) {
  models::ModelConfig shape = models::model_preset(config.model);
  shape.layers = config.layers.value_or(shape.layers);
  shape.heads = config.heads.value_or(shape.heads);
  shape.width = config.width.value_or(shape.width);
  shape.context = config.context.value_or(shape.context);
  shape.vocab_size = config.vocab_size.value_or(shape.vocab_size);
  shape.dropout = config.dropout.value_or(shape.dropout);
  shape.bias = config.bias.value_or(shape.bias);
  shape.kv_heads = config.kv_heads.value_or(shape.kv_heads);
  shape.mlp_width = config.mlp_width.value_or(shape.mlp_width);
  shape.tied = config.tied.value_or(shape.tied);
  shape.norm_eps = config.norm_eps.value_or(shape.norm_eps);
  shape.rope.base = config.rope_base.value_or(shape.rope.base);
  if (config.rope_scaling) shape.rope.scaling = rope_scaling_of(*config.rope_scaling).value();
  models::validate(shape);
  return shape;
}

void set_shape(RunConfig& config, const models::ModelConfig& shape) {
  config.layers = shape.layers;
  config.heads = shape.heads;
  config.width = shape.width;
  config.context = shape.context;
  config.vocab_size = shape.vocab_size;
  config.bias = shape.bias;
  if (shape.family != models::Family::kLlama) return;
  config.kv_heads = shape.kv_heads;
  config.mlp_width = shape.mlp_width;
  config.tied = shape.tied;
  config.norm_eps = shape.norm_eps;
  config.rope_base = shape.rope.base;
  config.rope_scaling = rope_scaling_text(shape.rope.scaling);
}

void check_step_fits(const RunConfig& config, const PrecisionMode& mode, at::Device device) {
  const models::ModelConfig shape = model_config(config);
  check_fits_machine(
      {shape, config.batch, shape.context, config.accumulate, config.release_gradients}, mode,
      device);
}

models::LanguageModel make_model(const RunConfig& config, const PrecisionMode& mode,
                                 at::Device device) {
  check_step_fits(config, mode, device);
  const models::ModelConfig shape = model_config(config);
  // First, as it takes a while to make a large model.
  const auto fp8 =
      fp8_scaling_for(mode, config.fp8_scaling, shape, config.batch * shape.context, device);
  models::LanguageModel model =
      models::make_language_model(shape, static_cast<uint64_t>(config.seed));
  model->to(device, mode.weights);
  model->set_fused(is_fused(config));
  model->set_recompute(models::recompute_level(config.recompute), mezzo::checkpoint);
  model->set_fp8(fp8);
  return model;
}

GradScalerOptions scaler_options(const RunConfig& config) {
  const PrecisionMode& mode = precision_mode(config.precision);
  GradScalerOptions options;
  options.allow_fp16_grads = mode.weights == at::kHalf;
  options.error_at_min_scale = false;  // DivergenceWatch ends such a run, and its state is kept
  options.enabled = config.scales_loss();
  if (const std::optional<double> scale = config.static_loss_scale()) {
    options.init_scale = *scale;
    options.is_dynamic = false;
    options.min_scale = std::min(options.min_scale, *scale);
  }
  return options;
}

optim::AdamWOptions optimizer_options(const RunConfig& config) {
  return optim::AdamWOptions(config.lr)
      .betas({config.beta1, config.beta2})
      .eps(config.eps)
      .weight_decay(config.weight_decay);
}

StepOptions step_options(const RunConfig& config) {
  return {.clip = config.clip,
          .max_retries = config.on_overflow == "retry" ? kMaxRetries : 0,
          .releases_gradients = config.release_gradients};
}

optim::Schedule make_schedule(const RunConfig& config) {
  optim::Schedule schedule{optim::schedule_kind(config.schedule), config.lr,
                           config.min_lr.value_or(config.lr / 10),
                           config.warmup.value_or(config.steps / 20), config.steps};
  optim::validate(schedule);
  return schedule;
}

}  // namespace mezzo::train
