#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/amp/precision.h"
#include "mezzo/models/language_model.h"
#include "mezzo/train/batch.h"
#include "mezzo/train/step_watch.h"

namespace mezzo::train {

/// Forward under Autocast, and `backward` of the loss, batch by batch: of each its part of the mean
/// over `batches`, which backward() is to scale and differentiate. Leaves the gradients, summed, in
/// the parameters; returns the mean loss, 0-dim fp32 on the model's device. Nothing is read on the
/// host. watch: null, or who looks on.
at::Tensor forward_backward(models::LanguageModel model, const PrecisionMode& mode,
                            const std::vector<Batch>& batches,
                            const std::function<void(const at::Tensor& loss)>& backward,
                            StepWatch* watch = nullptr);

}  // namespace mezzo::train
