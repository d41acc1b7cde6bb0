#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace mezzo::report {

/// A file that grows by whole records, each handed to the system at once. What finds no room on a
/// full disk is kept, and written with the next record.
class AppendedFile {
 public:
  AppendedFile() = default;
  explicit AppendedFile(std::filesystem::path path);

  /// Throws Error, naming the path, if it cannot be written; the file then ends with the last whole
  /// record before. Without `record`: what was kept.
  void append(std::string_view record = "");

 private:
  std::filesystem::path path_;
  std::ofstream out_;
  uintmax_t size_ = 0;
  std::string kept_;
};

}  // namespace mezzo::report
