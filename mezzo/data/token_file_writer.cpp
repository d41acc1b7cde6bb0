#include "mezzo/data/token_file_writer.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"

namespace mezzo::data {
namespace {

template <class T>
void narrow(std::span<const int32_t> tokens, std::vector<char>& bytes) {
  bytes.resize(tokens.size() * sizeof(T));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const T token = static_cast<T>(tokens[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &token, sizeof(T));
  }
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

}  // namespace

TokenFileWriter::TokenFileWriter(std::filesystem::path path, int64_t vocab_size,
                                 uint64_t vocab_hash)
    : path_(std::move(path)) {
  MEZZO_CHECK(vocab_size > 0, "token_file", "vocab_size must be positive, but is {}", vocab_size);
  std::memcpy(header_.magic, kTokenFileMagic.data(), sizeof header_.magic);
  header_.version = kTokenFileVersion;
  header_.bytes_per_token = vocab_size <= 65536 ? 2 : 4;
  header_.vocab_size = static_cast<uint64_t>(vocab_size);
  header_.vocab_hash = vocab_hash;
  temporary_ = temporary_name(path_);
  file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0) fail("open");
}

TokenFileWriter::~TokenFileWriter() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void TokenFileWriter::append(Split split, std::span<const int32_t> tokens) {
  MEZZO_CHECK(split == Split::held_out || header_.held_out_tokens == 0, "token_file",
              "{}: train tokens must come before the held-out ones", path_.string());
  for (const int32_t token : tokens) {
    MEZZO_CHECK(token >= 0 && static_cast<uint64_t>(token) < header_.vocab_size, "token_file",
                "{}: tokens must be from 0 to {}, but one is {}", path_.string(),
                header_.vocab_size - 1, token);
  }
  header_.bytes_per_token == 2 ? narrow<uint16_t>(tokens, buffer_)
                               : narrow<uint32_t>(tokens, buffer_);
  const uint64_t before = header_.train_tokens + header_.held_out_tokens;
  write_at(static_cast<int64_t>(sizeof header_ + before * header_.bytes_per_token), buffer_.data(),
           buffer_.size());
  payload_hash_.add_bytes(buffer_.data(), buffer_.size());
  (split == Split::train ? header_.train_tokens : header_.held_out_tokens) += tokens.size();
}

void TokenFileWriter::finish() {
  MEZZO_CHECK(file_ >= 0, "token_file", "{}: finish() was called before", path_.string());
  header_.payload_hash = payload_hash_.value();
  header_.header_hash =
      hash_of({reinterpret_cast<const char*>(&header_), offsetof(TokenFileHeader, header_hash)});
  write_at(0, &header_, sizeof header_);
  if (::fsync(file_) != 0) fail("fsync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
  ::close(std::exchange(file_, -1));
  // The rename itself must outlive a power cut.
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) fail("open the folder of");
  const bool is_synced = ::fsync(folder) == 0;
  ::close(folder);
  if (!is_synced) fail("fsync the folder of");
}

void TokenFileWriter::write_at(int64_t offset, const void* bytes, size_t size) {
  const char* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::pwrite(file_, from, size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write");
    from += written;
    offset += written;
    size -= static_cast<size_t>(written);
  }
}

void TokenFileWriter::fail(const char* action) const {
  detail::fail<Error>("token_file", "cannot {} {}: {}", action, path_.string(),
                      std::strerror(errno));
}

}  // namespace mezzo::data
