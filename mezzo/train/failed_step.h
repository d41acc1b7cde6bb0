#pragma once

#include <functional>
#include <vector>

#include "mezzo/amp/precision.h"
#include "mezzo/base/random_state.h"
#include "mezzo/models/language_model.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/train/batch.h"
#include "mezzo/train/checked_folder.h"

namespace mezzo::train {

/// A step that is not finite for no known reason: all that it began with, but for the weights.
struct FailedStep {
  std::vector<Batch> batches;
  double scale = 1.0;  // of its loss
  RandomState random;
  TensorMap fp8 = {};  // LanguageModelImpl::fp8_histories()
  // Where it was finite until the optimizer stepped: that step, and what it remembers.
  std::function<void()> update = {};
  std::vector<at::Tensor> moments = {};
};

/// Forward and backward over the step's batches, as a step does them, each time with what FP8 casts
/// remembered when it began, and the update, if the step has one. `mode` outlives the patient.
/// One batch is named "tokens" and "targets", several "tokens.0" ...
numerics::Patient patient_of(models::LanguageModel model, const FailedStep& failed,
                             const PrecisionMode& mode);

/// The batches' tensors by those names.
std::vector<numerics::NamedTensor> named_batches(const std::vector<Batch>& batches);

}  // namespace mezzo::train
