#include "mezzo/base/folder_lock.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/file.h>  // flock
#include <unistd.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"

namespace mezzo {

FolderLock::FolderLock(const std::filesystem::path& folder)
    : fd_(::open((folder / kFile).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  MEZZO_CHECK(fd_ >= 0, "folder", "cannot open {}: {}", (folder / kFile).string(),
              std::strerror(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd_);
    detail::fail<Error>("folder",
                        "{} is in use by process {}. Hint: wait until that has ended, or stop it",
                        folder.string(), read_file(folder / kFile));
  }
  const std::string process = std::to_string(::getpid());
  // Only for the text above: where the disk is full it has no number.
  [[maybe_unused]] const bool is_written =
      ::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, process.data(), process.size(), 0) > 0;
}

FolderLock::~FolderLock() { ::close(fd_); }

}  // namespace mezzo
