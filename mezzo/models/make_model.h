#pragma once

#include <cstdint>

#include "mezzo/models/language_model.h"
#include "mezzo/models/model_config.h"

namespace mezzo::models {

/// The model of the configuration's family. Weights as of its constructor.
LanguageModel make_language_model(const ModelConfig& config, uint64_t seed = 0);

}  // namespace mezzo::models
