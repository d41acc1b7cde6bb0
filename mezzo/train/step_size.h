#pragma once

#include <cstdint>

#include <c10/core/Device.h>

#include "mezzo/amp/precision.h"
#include "mezzo/models/model_config.h"

namespace mezzo::train {

/// What decides how much memory a training step takes.
struct StepSize {
  models::ModelConfig model;
  int64_t batch = 1;
  int64_t length = 1;  // tokens of a sequence
  int64_t accumulate = 1;
  bool releases_gradients = false;
};

/// Bytes that the step cannot do without, whatever is recomputed: weights, moments and tokens, and
/// the gradients or each block's input, which are not needed at the same time. In fp64, as sizes
/// that can be typed lead beyond int64.
double least_bytes(const StepSize& step, const PrecisionMode& mode);

/// Throws UsageError, naming the sizes and the bytes, for a step that the machine's memory cannot
/// hold: to find that out by trying would end by the kernel's killing some process. On a GPU, whose
/// allocator refuses by itself, that is a model which cannot be made on the host.
void check_fits_machine(const StepSize& step, const PrecisionMode& mode, c10::Device device);

}  // namespace mezzo::train
