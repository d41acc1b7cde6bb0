#pragma once

#include <vector>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/amp/precision.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/train/batch.h"

namespace mezzo::train {

class StepWatch;

/// Forward under Autocast and scaled backward of the mean loss over `batches`. Leaves the scaled
/// gradients, summed, in the parameters; returns the unscaled mean loss, 0-dim fp32 on the model's
/// device. Nothing is read on the host. watch: null, or who looks on.
at::Tensor forward_backward(models::GPT2& model, GradScaler& scaler, const PrecisionMode& mode,
                            const std::vector<Batch>& batches, StepWatch* watch = nullptr);

}  // namespace mezzo::train
