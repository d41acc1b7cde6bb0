#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace mezzo {

/// XXH3-128 of `bytes`, as 32 lower-case hex digits (what `xxhsum -H2` prints). It finds broken and
/// altered files; it is no protection against somebody who wants to deceive.
std::string checksum_hex(std::string_view bytes);

/// The same of a file's content, read in blocks of 1 MiB. Throws Error, naming the path, if the
/// file cannot be read to its end.
std::string file_checksum_hex(const std::filesystem::path& path);

}  // namespace mezzo
