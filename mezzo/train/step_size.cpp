#include "mezzo/train/step_size.h"

#include <algorithm>

#include "mezzo/base/check.h"
#include "mezzo/train/machine.h"

namespace mezzo::train {
namespace {

constexpr double kBytesOfToken = 2 * 8;  // as input and as target

}  // namespace

double least_bytes(const StepSize& step, const PrecisionMode& mode) {
  const bool is_wide = mode.weights == at::kFloat;
  const double weight = is_wide ? 4 : 2, moments = 2.0 * mode.moment_bits / 8;
  const double gradient = step.releases_gradients ? 0 : is_wide && !mode.splits_weights ? 4 : 2;
  const double tokens = static_cast<double>(step.batch) * static_cast<double>(step.length);
  const double inputs =  // of 2 bytes at least
      2.0 * tokens * static_cast<double>(step.model.layers) * static_cast<double>(step.model.width);
  const double parameters = models::parameters_of(step.model);
  return parameters * (weight + moments) +
         kBytesOfToken * tokens * static_cast<double>(step.accumulate) +
         std::max(parameters * gradient, inputs);
}

void check_fits_machine(const StepSize& step, const PrecisionMode& mode, c10::Device device) {
  const models::ModelConfig& model = step.model;
  const double need =
      device.is_cpu() ? least_bytes(step, mode) : models::parameters_of(model) * sizeof(float);
  const double there = memory_bytes();
  MEZZO_CHECK_USAGE(
      need <= there, "memory",
      "a step of this size needs {:.3g} GiB at least, but the machine has {:.3g}: layers {}, width "
      "{}, vocab-size {}, batch {}, accumulate {}, {} tokens a sequence, in {}. Hint: make the "
      "largest of them smaller",
      need / 0x1p30, there / 0x1p30, model.layers, model.width, model.vocab_size, step.batch,
      step.accumulate, step.length, mode.name);
}

}  // namespace mezzo::train
