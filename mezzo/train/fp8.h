#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/Device.h>

#include "mezzo/amp/precision.h"
#include "mezzo/kernels/fp8/recipe.h"
#include "mezzo/models/model_config.h"

namespace mezzo::train {

/// The words of --fp8-scaling: current, delayed.
const std::vector<std::string>& fp8_scaling_names();

/// What one of them means in the mode; nothing in a mode without FP8 products. Throws UsageError
/// for another word, and for "delayed" in such a mode.
std::optional<kernels::Fp8Scaling> fp8_scaling_of(const PrecisionMode& mode,
                                                  std::string_view scaling);

/// The same for a model of this shape: throws UsageError, with the reason, also where nothing of it
/// could be in FP8. rows: of a batch, its sequences x their length.
std::optional<kernels::Fp8Scaling> fp8_scaling_for(const PrecisionMode& mode,
                                                   std::string_view scaling,
                                                   const models::ModelConfig& shape, int64_t rows,
                                                   at::Device device);

/// What is to be said of figures in this mode on this device: that it is emulated. Or empty.
std::string fp8_note(const PrecisionMode& mode, at::Device device);

}  // namespace mezzo::train
