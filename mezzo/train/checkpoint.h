#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/data/sampler.h"
#include "mezzo/train/checked_folder.h"

namespace mezzo::train {

/// All that a run needs to go on bit for bit as if it had never stopped.
struct Checkpoint {
  int64_t step = 0;  // steps done, skipped ones included
  int64_t skipped_steps = 0;
  int64_t explained_skips = 0;       // of them; 0 in checkpoints of older builds
  std::vector<double> train_losses;  // of the last steps; an older build's: their mean alone
  double val_loss = 0.0;             // at this step; NaN if not evaluated
  double val_accuracy = 0.0;
  uint64_t data_fingerprint = 0;  // data::token_fingerprint of what the run trains on
  data::SamplerState sampler;
  std::optional<GradScalerState> scaler;  // none: the run does not scale its loss

  TensorMap model;      // by parameter name; of a split weight it may be the bf16 half alone
  TensorMap optimizer;  // as AdamW and CompactAdamW name their state
  TensorMap rng;        // generator state by device: "cpu", "cuda"
  TensorMap fp8;        // LanguageModelImpl::fp8_histories()
};

/// `folder` (which must not exist) with model.safetensors, optimizer.safetensors, rng.safetensors,
/// fp8.safetensors where there is such a state, and state.json, which holds the checksums. Written
/// under a temporary name, fsynced, renamed: a crash at any instant, or a full disk, leaves no half
/// checkpoint. A bf16 weight whose remainder is in `optimizer` is written whole, in fp32. Throws
/// Error, naming the path and the reason.
void save_checkpoint(const std::filesystem::path& folder, const Checkpoint& checkpoint);

/// All but the weights and the optimizer's state, whose files are checked, too; then each of these
/// two: at once they may be too much. Throw Error that names the file if any is missing, truncated,
/// altered, or of another format, and the run's checkpoint before, if it has one.
Checkpoint load_run_state(const std::filesystem::path& folder);
TensorMap load_model_tensors(const std::filesystem::path& folder);
TensorMap load_optimizer_tensors(const std::filesystem::path& folder);

/// A run's checkpoints, up to that of `last_step`, oldest first: run_dir/checkpoints/step-000400.
std::filesystem::path checkpoint_folder(const std::filesystem::path& run_dir, int64_t step);
std::vector<std::filesystem::path> list_checkpoints(
    const std::filesystem::path& run_dir, int64_t last_step = std::numeric_limits<int64_t>::max());

/// The checkpoint that `place` names: itself, if it is one, or the newest of the run's folder.
/// Throws UsageError if there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& place);

/// Deletes all but the newest `keep` and the one with the lowest validation loss. One that cannot
/// be read is kept.
void prune_checkpoints(const std::filesystem::path& run_dir, int64_t keep);

/// Renames the checkpoints of later steps than `step`, step-000750 to abandoned-step-000750 (or
/// abandoned-step-000750-2, where that is taken): they can be named, but are not the run's any
/// more. Returns how many.
int64_t abandon_checkpoints_after(const std::filesystem::path& run_dir, int64_t step);

}  // namespace mezzo::train
