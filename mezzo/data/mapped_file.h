#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace mezzo::data {

/// A file's bytes in memory, read as they are touched. The file must not shrink meanwhile.
class MappedFile {
 public:
  /// Throws Error, naming the path and the system's reason.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace mezzo::data
