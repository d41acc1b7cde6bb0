#pragma once

#include <vector>

#include "mezzo/amp/precision.h"
#include "mezzo/models/language_model.h"
#include "mezzo/train/batch.h"

namespace mezzo::train {

struct Evaluation {
  double loss = 0.0;      // mean cross entropy a token, in nats
  double accuracy = 0.0;  // share of tokens that the model ranks first, 0 to 1
};

/// The model on the batches, in the mode's dtypes, without gradients and without dropout; the
/// model's training mode is put back afterwards. Moves no random generator. At least one batch; the
/// device is waited for once, at the end.
Evaluation evaluate(models::LanguageModel model, const PrecisionMode& mode,
                    const std::vector<Batch>& batches);

}  // namespace mezzo::train
