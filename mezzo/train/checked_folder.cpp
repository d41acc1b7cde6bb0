#include "mezzo/train/checked_folder.h"

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/base/checksum.h"

namespace mezzo::train {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

namespace {

// Of all that the state says but this checksum.
std::string checksum_of(json state, const char* state_file) {
  state["checksums"].erase(state_file);
  return checksum_hex(state.dump());
}

}  // namespace

void FolderFiles::add(const char* name, const TensorMap& tensors,
                      const std::map<std::string, LateTensor>& late) {
  save_safetensors(folder_ / name, {tensors, {{"format", "pt"}}}, late);
  checksums_[name] = file_checksum_hex(folder_ / name);
}

void FolderFiles::add(const char* name, const std::string& text) {
  write_file_atomically(folder_ / name, text);
  checksums_[name] = file_checksum_hex(folder_ / name);
}

void save_checked_folder(const FolderKind& kind, const fs::path& folder, const json& state,
                         const std::function<void(FolderFiles&)>& fill) {
  MEZZO_CHECK(!fs::exists(folder), kind.what, "{} is there already", folder.string());
  std::error_code error;
  fs::create_directories(folder.parent_path(), error);
  MEZZO_CHECK(!error, kind.what, "cannot make {}: {}", folder.parent_path().string(),
              error.message());
  write_folder_atomically(folder, [&](const fs::path& temporary) {
    json all = {{"format", kind.format}};
    all.update(state);
    FolderFiles files(temporary, all["checksums"]);
    fill(files);
    all["checksums"][kind.state_file] = checksum_of(all, kind.state_file);
    write_file_atomically(temporary / kind.state_file, all.dump(2) + "\n");
  });
}

CheckedFolder::CheckedFolder(const FolderKind& kind, fs::path folder)
    : kind_(kind), folder_(std::move(folder)) {
  int format = 0;
  try {
    state_ = json::parse(read_file(folder_ / kind.state_file));
    format = state_.at("format");
  } catch (const json::exception& reason) {
    fail_damaged(reason);
  }
  MEZZO_CHECK(format == kind.format, kind.what, "{} has format {}, but this build reads format {}",
              folder_.string(), format, kind.format);
  if (!has(kind.state_file)) return;  // as older builds wrote it
  MEZZO_CHECK(checksum_of(state_, kind.state_file) == state_["checksums"][kind.state_file],
              kind.what, "{} is not the file that was written: its checksum differs (altered)",
              (folder_ / kind.state_file).string());
}

bool CheckedFolder::has(const char* name) const {
  const auto checksums = state_.find("checksums");
  return checksums != state_.end() && checksums->contains(name);
}

TensorMap CheckedFolder::tensors(const char* name) const {
  return load_safetensors(checked(name)).tensors;
}

std::string CheckedFolder::text(const char* name) const { return read_file(checked(name)); }

void CheckedFolder::fail_damaged(const std::exception& reason) const {
  detail::fail<Error>(kind_.what, "{} is damaged: {}", (folder_ / kind_.state_file).string(),
                      reason.what());
}

fs::path CheckedFolder::checked(const char* name) const {
  const fs::path file = folder_ / name;
  std::string expected;
  try {
    expected = state_.at("checksums").at(name);
  } catch (const json::exception& reason) {
    fail_damaged(reason);
  }
  MEZZO_CHECK(file_checksum_hex(file) == expected, kind_.what,
              "{} is not the file that was written: its checksum differs (truncated or altered)",
              file.string());
  return file;
}

}  // namespace mezzo::train
