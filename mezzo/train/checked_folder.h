#pragma once

#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include <ATen/core/Tensor.h>

#include "mezzo/base/safetensors.h"

namespace mezzo::train {

using TensorMap = std::map<std::string, at::Tensor>;

/// A sort of folder whose files belong together: a JSON file says what it is, and the checksums of
/// the others and of itself.
struct FolderKind {
  const char* what;        // in errors: "checkpoint"
  const char* state_file;  // the JSON: "format", "checksums" and what the caller adds
  int format;
};

/// Takes the files of a folder that is being written.
class FolderFiles {
 public:
  FolderFiles(std::filesystem::path folder, nlohmann::ordered_json& checksums)
      : folder_(std::move(folder)), checksums_(checksums) {}
  /// As safetensors.
  void add(const char* name, const TensorMap& tensors,
           const std::map<std::string, LateTensor>& late = {});
  void add(const char* name, const std::string& text);

 private:
  std::filesystem::path folder_;
  nlohmann::ordered_json& checksums_;
};

/// `folder` (which must not exist) with the files that `fill` adds, their checksums and `state`.
/// Written under a temporary name, fsynced, renamed: a crash at any instant, or a full disk, leaves
/// no half folder. Throws Error, naming the path and the reason.
void save_checked_folder(const FolderKind& kind, const std::filesystem::path& folder,
                         const nlohmann::ordered_json& state,
                         const std::function<void(FolderFiles&)>& fill);

/// Such a folder, to be read. All methods throw Error that names the file if it is missing,
/// truncated or altered.
class CheckedFolder {
 public:
  /// Throws, too, if it is of another format.
  CheckedFolder(const FolderKind& kind, std::filesystem::path folder);

  const nlohmann::ordered_json& state() const { return state_; }
  /// Whether this file was written at all.
  bool has(const char* name) const;
  /// The file's path, once its checksum has been found right.
  std::filesystem::path checked(const char* name) const;
  TensorMap tensors(const char* name) const;
  std::string text(const char* name) const;

  /// Throws that the state is damaged: for a caller who did not find in it what must be there.
  [[noreturn]] void fail_damaged(const std::exception& reason) const;

 private:
  const FolderKind& kind_;
  std::filesystem::path folder_;
  nlohmann::ordered_json state_;
};

}  // namespace mezzo::train
