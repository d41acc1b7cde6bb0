#include "mezzo/data/text_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <fmt/ranges.h>  // join

#include "mezzo/base/check.h"
#include "mezzo/data/utf8.h"

namespace mezzo::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kReadBytes = 4 << 20;

bool is_wanted(const fs::path& path, const std::vector<std::string>& extensions) {
  if (extensions.empty()) return true;
  return std::any_of(extensions.begin(), extensions.end(), [&](std::string_view extension) {
    if (extension.starts_with('.')) extension.remove_prefix(1);
    return path.extension() == fmt::format(".{}", extension);
  });
}

TextFile describe(const fs::directory_entry& entry) {
  const auto modified = entry.last_write_time().time_since_epoch();
  return {entry.path(), static_cast<int64_t>(entry.file_size()),
          std::chrono::duration_cast<std::chrono::nanoseconds>(modified).count()};
}

// A link that leads nowhere is as good as none.
bool is_fault(const std::error_code& error) {
  return error && error != std::errc::no_such_file_or_directory;
}

std::vector<TextFile> list_folder(const fs::path& folder,
                                  const std::vector<std::string>& extensions) {
  std::vector<TextFile> files;
  fs::path last = folder;  // the iterator's own error has no path
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder); it != fs::end(it); it.increment(error)) {
    last = it->path();
    const bool is_hidden = it->path().filename().string().starts_with('.');
    if (is_hidden) {
      it.disable_recursion_pending();
    } else if (is_wanted(it->path(), extensions)) {
      std::error_code fault;  // such as that of a link that leads to itself
      if (it->is_regular_file(fault)) files.push_back(describe(*it));
      if (is_fault(fault)) files.push_back({.path = it->path(), .fault = fault.message()});
    }
  }
  MEZZO_CHECK(!error, "corpus", "cannot read the folder {}: {}", last.string(), error.message());
  std::sort(files.begin(), files.end(), [](const TextFile& a, const TextFile& b) {
    return a.path.generic_string() < b.path.generic_string();
  });
  return files;
}

}  // namespace

std::vector<TextFile> list_text_files(const fs::path& path,
                                      const std::vector<std::string>& extensions) {
  try {
    MEZZO_CHECK_USAGE(fs::exists(path), "corpus",
                      "{} must be a text file or a folder, but is not there", path.string());
    if (!fs::is_directory(path)) return {describe(fs::directory_entry(path))};
    auto files = list_folder(path, extensions);
    MEZZO_CHECK_USAGE(
        !files.empty(), "corpus", "the folder {} must hold files{}, but there is none",
        path.string(),
        extensions.empty() ? "" : fmt::format(" that end in {}", fmt::join(extensions, ", ")));
    return files;
  } catch (const fs::filesystem_error& error) {
    detail::fail<Error>("corpus", "cannot read {}: {}", error.path1().string(),
                        error.code().message());
  }
}

std::string read_range(const fs::path& path, int64_t offset, int64_t size) {
  std::string bytes(static_cast<size_t>(size), '\0');
  std::ifstream in(path, std::ios::binary);
  MEZZO_CHECK(in, "corpus", "cannot open {}: {}", path.string(), std::strerror(errno));
  in.seekg(offset);
  in.read(bytes.data(), size);
  MEZZO_CHECK(in.gcount() == size, "corpus",
              "{} must have {} bytes from byte {} on, but has {}; was it changed meanwhile?",
              path.string(), size, offset, in.gcount());
  return bytes;
}

std::optional<std::string> why_not_text(const TextFile& file) {
  if (!file.fault.empty()) return fmt::format("cannot be read: {}", file.fault);
  if (file.bytes == 0) return "is empty";
  std::string part;  // begins with the unfinished character of the part before
  for (int64_t done = 0; done < file.bytes;) {
    const int64_t size = std::min(kReadBytes, file.bytes - done);
    const int64_t part_begin = done - static_cast<int64_t>(part.size());
    part += read_range(file.path, done, size);
    done += size;
    const size_t nul = part.find('\0');
    if (nul != part.npos) {
      return fmt::format("byte {} is NUL", part_begin + static_cast<int64_t>(nul));
    }
    const size_t tail = done < file.bytes ? unfinished_utf8_tail(part) : 0;
    const auto invalid = find_invalid_utf8(std::string_view(part).substr(0, part.size() - tail));
    if (invalid) {
      return fmt::format("byte {} is not UTF-8", part_begin + static_cast<int64_t>(*invalid));
    }
    part.erase(0, part.size() - tail);
  }
  return std::nullopt;
}

}  // namespace mezzo::data
