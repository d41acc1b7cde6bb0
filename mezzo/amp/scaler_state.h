#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace mezzo {

/// What torch.amp.GradScaler.state_dict() holds, key for key ("_growth_tracker" there).
struct GradScalerState {
  double scale;             ///< that the next loss is multiplied by
  double growth_factor;     ///< of the scale after growth_interval good steps
  double backoff_factor;    ///< of the scale after an overflow
  int64_t growth_interval;  ///< good steps in a row
  int64_t growth_tracker;   ///< good steps since the scale last moved
};

/// Writes the state as torch.save(scaler.state_dict(), path) does, a disabled scaler's as an empty
/// dict: Python's torch.load(path) reads it, with weights_only too. Throws Error if the file cannot
/// be written; one that was there is then untouched.
void save_torch_file(const std::optional<GradScalerState>& state,
                     const std::filesystem::path& path);

/// Reads what torch.save(scaler.state_dict(), path) wrote in Python, or save_torch_file; an empty
/// dict is none. Throws Error if there is no such file, or one that is not a dict with the five
/// keys, and then says which is missing; whether the numbers can work is for
/// GradScaler::load_state_dict to say.
std::optional<GradScalerState> load_torch_file(const std::filesystem::path& path);

}  // namespace mezzo
