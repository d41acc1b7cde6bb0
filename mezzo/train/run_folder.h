#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "mezzo/base/folder_lock.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

// What a run's folder holds, besides the files that mezzo/report writes.
inline constexpr const char* kConfigFile = "config.toml";
inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kCheckpoints = "checkpoints";    // of them: step-000250
inline constexpr const char* kCheckpointFile = "state.json";  // by which one is known
inline constexpr const char* kFailures = "failures";          // of them: step-17

/// The folder of the run whose checkpoint this is.
inline std::filesystem::path run_of(const std::filesystem::path& checkpoint) {
  return checkpoint.parent_path().parent_path();
}

/// What the model is called in what a run shows: its preset, or the folder that its weights and
/// shape came from (of a checkpoint, its run's).
std::string model_name(const RunConfig& config);

/// Makes runs/DATE-TIME-MODEL-KIND; where that is taken, -2 or the next number stands behind it, so
/// that processes which begin in the same second have a folder each. Throws Error if it cannot.
std::string make_dated_folder(const std::string& model, const std::string& kind);

/// Whether there is nothing in the folder but a lock; so of one that is not there.
bool holds_nothing(const std::filesystem::path& folder);

/// The folder that a run writes, and no other process meanwhile.
class RunFolder {
 public:
  /// config.out: the one of the run that config.resume goes on with, or a new one, named by the
  /// time if it is empty. What a killed run left in it under temporary names is removed. Throws
  /// UsageError if a new one has files in it, Error if it cannot be made or another process writes
  /// there.
  explicit RunFolder(const RunConfig& config);
  /// A new folder that nothing has come into, as the run was refused, is removed.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  bool is_new_ = false;
  std::optional<FolderLock> lock_;
};

}  // namespace mezzo::train
