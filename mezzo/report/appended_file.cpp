#include "mezzo/report/appended_file.h"

#include <system_error>
#include <utility>

#include "mezzo/base/check.h"

namespace mezzo::report {

namespace fs = std::filesystem;

AppendedFile::AppendedFile(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  if (const uintmax_t size = fs::file_size(path_, error); !error) size_ = size;
}

void AppendedFile::append(std::string_view record) {
  kept_ += record;
  if (!out_.is_open()) out_.open(path_, std::ios::binary | std::ios::app);
  out_ << kept_ << std::flush;
  if (out_.good()) {
    size_ += kept_.size();
    kept_.clear();
    return;
  }
  const bool is_open = out_.is_open();
  out_ = std::ofstream();  // whose buffer has a part of it
  std::error_code error;
  fs::resize_file(path_, size_, error);
  MEZZO_CHECK(is_open, path_.string(), "cannot be opened for writing");
  detail::fail<Error>(path_.string(),
                      "{} bytes cannot be written: is the disk full? They are kept, and tried "
                      "again with what follows",
                      kept_.size());
}

}  // namespace mezzo::report
