#pragma once

#include <filesystem>
#include <optional>

#include <c10/core/ScalarType.h>

#include "mezzo/data/tokenizer.h"
#include "mezzo/train/checked_folder.h"  // TensorMap
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// A model that is in a folder.
struct StoredModel {
  RunConfig config;                 // of its run; of a Hugging Face folder its shape, in fp32
  std::filesystem::path weights;    // the checkpoint, or the Hugging Face folder
  std::filesystem::path tokenizer;  // tokenizer.json, which need not be there
};

/// The model that `place` names: the newest checkpoint of a run's folder, a checkpoint, or a
/// Hugging Face folder of a GPT-2 or a Llama (hf_folder.h). Throws UsageError if it is none of
/// them, Error if it is broken or of another sort of model. The weights are not read yet.
StoredModel find_model(const std::filesystem::path& place);

/// Its weights by parameter name, as the same numbers in `dtype` or rounded to it. Throws Error,
/// naming file and tensor, for what is missing, altered, or of another shape than the model's.
TensorMap load_weights(const StoredModel& model, at::ScalarType dtype);

/// Its tokenizer; nothing if there is none. Throws Error if the file is broken, or has more tokens
/// than the model.
std::optional<data::Tokenizer> load_tokenizer(const StoredModel& model);

}  // namespace mezzo::train
