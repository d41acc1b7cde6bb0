#pragma once

#include "mezzo/train/checkpoint.h"

namespace mezzo::train {

/// All of it at once.
inline Checkpoint load_checkpoint(const std::filesystem::path& folder) {
  Checkpoint checkpoint = load_run_state(folder);
  checkpoint.model = load_model_tensors(folder);
  checkpoint.optimizer = load_optimizer_tensors(folder);
  return checkpoint;
}

}  // namespace mezzo::train
