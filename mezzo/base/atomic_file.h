#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace mezzo {

/// A name beside `path` that nobody else takes: .NAME.tmp-PROCESS-RANDOM, which remove_leftovers()
/// knows.
std::filesystem::path temporary_name(const std::filesystem::path& path);

/// Writes `bytes` as the file `path`: under a temporary name beside it, fsynced, then renamed over
/// it, and the folder fsynced. A reader, or a crash at any instant, sees the old file or the new
/// one, never a part. Throws Error, naming the path and the system's reason (disk full, no
/// permission); `path` is then untouched.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Takes the next bytes of a file that is being written.
using ByteSink = std::function<void(std::string_view bytes)>;

/// The same for a file that should not be held in memory whole: `fill` hands its bytes to the sink,
/// piece by piece. If `fill` throws, `path` is untouched and the error goes on.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink& write)>& fill);

/// Makes the folder `path` (which must not exist) with all that `fill` writes into the folder it is
/// handed: filled under a temporary name, every file fsynced, then renamed. If `fill` throws,
/// nothing is left and the error goes on.
void write_folder_atomically(const std::filesystem::path& path,
                             const std::function<void(const std::filesystem::path& folder)>& fill);

/// Removes the folder `path`, if it is there, with all that it holds: renamed first, so that a
/// crash at any instant leaves all of it or nothing under that name. Throws Error, naming the path
/// and the system's reason.
void remove_folder_atomically(const std::filesystem::path& path);

/// Removes from `folder` what was left there under temporary names because their process was
/// killed: of processes that do not run any more, and not touched for `age`.
void remove_leftovers(const std::filesystem::path& folder, std::chrono::hours age);

/// The whole file. Throws Error, naming the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

}  // namespace mezzo
