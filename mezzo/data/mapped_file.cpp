#include "mezzo/data/mapped_file.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mezzo/base/check.h"

namespace mezzo::data {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  MEZZO_CHECK(file >= 0, "token_file", "cannot open {}: {}", path.string(), std::strerror(errno));
  struct stat status {};
  void* address = nullptr;
  int error = 0;
  if (::fstat(file, &status) != 0) {
    error = errno;
  } else if (!S_ISREG(status.st_mode)) {
    error = EINVAL;
  } else if (status.st_size > 0) {  // an empty mapping is not allowed
    address = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, file, 0);
    if (address == MAP_FAILED) error = errno;
  }
  ::close(file);
  MEZZO_CHECK(error == 0, "token_file", "cannot map {}: {}", path.string(), std::strerror(error));
  bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(status.st_size)};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace mezzo::data
