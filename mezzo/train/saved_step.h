#pragma once

#include <cstdint>
#include <filesystem>

#include "mezzo/train/diagnosis_files.h"
#include "mezzo/train/failed_step.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// A failed step in a folder of its own, run_dir/failures/step-N, to be run again without the run.
struct SavedStep {
  int64_t number = 0;  // in the run, from 1
  FailedStep failed;
  RunConfig config;   // of the run
  TensorMap weights;  // as RunOptimizer::weights() has them
};

std::filesystem::path failure_folder(const std::filesystem::path& run_dir, int64_t step);

/// Whether a run that keeps `most` failures may keep this step's: it has fewer, or has this one.
bool has_room_for_failure(const std::filesystem::path& run_dir, int64_t step, int64_t most);

/// Writes `folder`, in place of what is there. A crash at any instant leaves all of it or nothing.
/// Keeps the number of threads that are in use now, upon which the bits of sums depend. Throws
/// Error, naming the path and the reason.
void save_step(const std::filesystem::path& folder, const SavedStep& step);

/// Throws UsageError if there is none, Error that names the file if one is missing, truncated,
/// altered or does not fit the others.
SavedStep load_step(const std::filesystem::path& folder);

/// The configuration to run it in: its own with what was given over it. Throws UsageError for an
/// option that is no change of precision.
RunConfig config_for(const SavedStep& step, const GivenOptions& given);

/// The diagnosis of the step as it was, or as it would be in `config`, which may differ from its
/// own in precision, loss scale and cast policy. Without a loss scale of its own it is run at the
/// saved one.
ExaminedStep examine(const SavedStep& step, const RunConfig& config);

}  // namespace mezzo::train
