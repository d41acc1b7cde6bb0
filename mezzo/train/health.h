#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/base/float_format.h"
#include "mezzo/numerics/range_probe.h"
#include "mezzo/report/step_record.h"

namespace mezzo::train {

/// How a parameter fares in a step.
struct ParameterHealth {
  std::string name;
  numerics::Range weights;    // that the model computes with, before the step
  numerics::Range gradients;  // unscaled, before clipping
  // Of at most StepHealth::kSampled elements, at even distances.
  std::optional<double> update;       // rms of the updates over the rms of the weights
  std::optional<double> lost_update;  // share of weights with a gradient that have not moved
};

/// What a step shows of how near a model is to what its dtypes cannot hold.
struct Health {
  std::vector<numerics::ModuleRanges> modules;
  std::vector<ParameterHealth> parameters;
};

/// Of the numbers that are not zero, the share that would be if they were multiplied by `scale` and
/// rounded to the format; 0 where all are zero.
double underflow(const numerics::Magnitudes& m, const FloatFormat& format, double scale);

/// For the run's files. scale: the loss scale of the step.
report::HealthRecord health_record(int64_t step, const Health& health, double scale,
                                   bool is_skipped);

}  // namespace mezzo::train
