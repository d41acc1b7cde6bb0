#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace mezzo {

/// Writes `bytes` as the file `path`: under a temporary name beside it, fsynced, then renamed over
/// it, and the folder fsynced. A reader, or a crash at any instant, sees the old file or the new
/// one, never a part. Throws Error, naming the path and the system's reason (disk full, no
/// permission); `path` is then untouched.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Makes the folder `path` (which must not exist) with all that `fill` writes into the folder it is
/// handed: filled under a temporary name, every file fsynced, then renamed. If `fill` throws,
/// nothing is left and the error goes on.
void write_folder_atomically(const std::filesystem::path& path,
                             const std::function<void(const std::filesystem::path& folder)>& fill);

/// The whole file. Throws Error, naming the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

}  // namespace mezzo
