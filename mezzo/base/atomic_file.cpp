#include "mezzo/base/atomic_file.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include "mezzo/base/check.h"

namespace mezzo {
namespace {

namespace fs = std::filesystem;

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags)
      : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    check(fd_ >= 0, "open");
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      check(written >= 0, "write");
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }
  std::string read_all() {
    std::string bytes(fs::file_size(path_), '\0');
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t got = ::read(fd_, bytes.data() + done, bytes.size() - done);
      if (got < 0 && errno == EINTR) continue;
      check(got >= 0, "read");
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    bytes.resize(done);
    return bytes;
  }
  void sync() { check(::fsync(fd_) == 0, "fsync"); }

 private:
  void check(bool ok, std::string_view action) const {
    if (!ok)
      detail::fail<Error>("file", "cannot {} {}: {}", action, path_.string(), std::strerror(errno));
  }

  fs::path path_;
  int fd_;
};

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

constexpr std::string_view kTemporary = ".tmp-";

// The process that has given this temporary name.
std::optional<pid_t> writer_of(const fs::path& path) {
  const std::string name = path.filename().string();
  const size_t at = name.rfind(kTemporary);
  if (!name.starts_with('.') || at == std::string::npos) return std::nullopt;
  pid_t writer = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + at + kTemporary.size(), end, writer);
  const bool has_ended = stop == end || *stop == '-';
  if (error != std::errc() || !has_ended || writer <= 0) return std::nullopt;
  return writer;
}

// One with the number of this process has ended: in a container numbers come again.
bool is_running(pid_t process) {
  return process != ::getpid() && (::kill(process, 0) == 0 || errno == EPERM);
}

void sync_path(const fs::path& path) { FileDescriptor(path, O_RDONLY).sync(); }

void rename_and_sync(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    detail::fail<Error>("file", "cannot rename {} to {}: {}", from.string(), to.string(),
                        std::strerror(errno));
  }
  sync_path(parent_of(to));
}

}  // namespace

// Containers that share a folder have processes of the same number.
fs::path temporary_name(const fs::path& path) {
  std::random_device random;
  return parent_of(path) / fmt::format(".{}{}{}-{:08x}{:08x}", path.filename().string(), kTemporary,
                                       ::getpid(), random(), random());
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  write_file_atomically(path, [bytes](const ByteSink& write) { write(bytes); });
}

void write_file_atomically(const fs::path& path,
                           const std::function<void(const ByteSink& write)>& fill) {
  const fs::path temporary = temporary_name(path);
  try {
    FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    fill([&file](std::string_view bytes) { file.write(bytes); });
    file.sync();
    rename_and_sync(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void write_folder_atomically(const fs::path& path,
                             const std::function<void(const fs::path&)>& fill) {
  const fs::path temporary = temporary_name(path);
  try {
    std::error_code error;
    fs::create_directories(temporary, error);
    MEZZO_CHECK(!error, "file", "cannot make the folder {}: {}", temporary.string(),
                error.message());
    fill(temporary);
    for (const auto& entry : fs::recursive_directory_iterator(temporary)) sync_path(entry.path());
    sync_path(temporary);
    rename_and_sync(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

void remove_folder_atomically(const fs::path& path) {
  if (!fs::exists(path)) return;
  const fs::path temporary = temporary_name(path);
  rename_and_sync(path, temporary);
  std::error_code error;
  fs::remove_all(temporary, error);
  MEZZO_CHECK(!error, "file", "cannot remove {}: {}", temporary.string(), error.message());
}

void remove_leftovers(const fs::path& folder, std::chrono::hours age) {
  std::error_code ignored;  // what cannot be removed stays, and harms nobody
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::optional<pid_t> writer = writer_of(entry.path());
    if (!writer.has_value() || is_running(*writer)) continue;
    if (entry.last_write_time(ignored) <= fs::file_time_type::clock::now() - age)
      fs::remove_all(entry.path(), ignored);
  }
}

std::string read_file(const fs::path& path) {
  MEZZO_CHECK(!fs::is_directory(path), "file", "{} is a folder, not a file", path.string());
  return FileDescriptor(path, O_RDONLY).read_all();
}

}  // namespace mezzo
