#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::data {

struct TextFile {
  std::filesystem::path path;
  int64_t bytes = 0;
  int64_t modified_ns = 0;
  std::string fault = {};  // why its size is not known; "": it is
};

/// The file `path` itself, or all files in the folder `path` and its folders whose extension is
/// one of `extensions` ("py" and ".py" are the same; none given: all), sorted by path. Hidden files
/// and folders are left out, linked folders are not entered. Throws UsageError if `path` is not
/// there or holds no such file, Error if it cannot be read.
std::vector<TextFile> list_text_files(const std::filesystem::path& path,
                                      const std::vector<std::string>& extensions);

/// Why the file is no text ("is empty", "byte 17 is not UTF-8", ...); nothing if it is. Reads all
/// of it, in parts.
std::optional<std::string> why_not_text(const TextFile& file);

/// The bytes [offset, offset + size) of a file. Throws Error if it has fewer.
std::string read_range(const std::filesystem::path& path, int64_t offset, int64_t size);

}  // namespace mezzo::data
