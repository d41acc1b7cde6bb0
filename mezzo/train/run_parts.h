// What a run is made of, as its configuration says.
#pragma once

#include <c10/core/Device.h>

#include "mezzo/amp/precision.h"
#include "mezzo/amp/scaler_options.h"
#include "mezzo/models/language_model.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/schedule.h"
#include "mezzo/train/run_config.h"
#include "mezzo/train/step.h"

namespace mezzo::train {

/// The model that a configuration names: the preset with the overrides applied.
models::ModelConfig model_config(const RunConfig& config);

/// Sets the overrides, all but dropout, so that model_config() is this shape whatever the preset of
/// its family.
void set_shape(RunConfig& config, const models::ModelConfig& shape);

/// check_fits_machine() of the run's step.
void check_step_fits(const RunConfig& config, const PrecisionMode& mode, at::Device device);

/// With its first weights, in the mode's dtype. Throws UsageError as fp8_scaling_for() does, and
/// for a step that the machine cannot hold.
models::LanguageModel make_model(const RunConfig& config, const PrecisionMode& mode,
                                 at::Device device);

GradScalerOptions scaler_options(const RunConfig& config);
optim::AdamWOptions optimizer_options(const RunConfig& config);
StepOptions step_options(const RunConfig& config);
/// Throws UsageError for a schedule that cannot be.
optim::Schedule make_schedule(const RunConfig& config);

}  // namespace mezzo::train
