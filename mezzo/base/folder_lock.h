#pragma once

#include <filesystem>

namespace mezzo {

/// Holds a folder against every other process that would hold it, until the end of the scope or of
/// this process, however it ends.
class FolderLock {
 public:
  /// The file in the folder that is locked. It stays, and alone it keeps nobody out.
  static constexpr const char* kFile = ".lock";

  /// Throws Error, naming the process, if another one holds the folder. On a file system that has
  /// no locks nothing is held.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

}  // namespace mezzo
