#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/numerics/diagnosis.h"

namespace mezzo::numerics {

using NamedTensor = std::pair<std::string, at::Tensor>;

/// A training step that can be run again and again.
struct Patient {
  /// Forward and backward (zero_grad() is not needed, a step of the optimizer at its end is
  /// allowed); returns the loss before it is scaled. Runs on the calling thread, always the same
  /// work: it draws from the default generators only, and reads the same batch.
  std::function<at::Tensor()> step;
  /// Their gradients are what must be finite; they themselves must stay so.
  std::vector<NamedTensor> parameters;
  /// Buffers, and whatever else lives on from step to step: what an op writes is found without,
  /// what other code writes (CompactAdamW, of whose moments state_tensors() is the list) is not.
  std::vector<NamedTensor> buffers;
  /// The batch. The first dimension of the first one counts the samples.
  std::vector<NamedTensor> inputs;
};

struct DoctorOptions {
  bool tries_remedies = true;
  bool checks_replay = true;  ///< runs the step twice and compares every op's result
  int max_trials = 24;        ///< replays for remedies
};

/// Runs the step again with every result of every op looked at, forward, backward and optimizer,
/// and says where what is not finite, or wrong, came from, and which change of the step is proved
/// to cure it. Before each run and at the end all is as it was found: parameters, their gradients,
/// buffers, what ops write in place that is older than the step, random generators. Restores the
/// same if the step throws, which is a finding.
///
/// Throws Error for a patient without a step, or within another diagnosis.
Diagnosis diagnose(const Patient& patient, const DoctorOptions& options = {});

}  // namespace mezzo::numerics
