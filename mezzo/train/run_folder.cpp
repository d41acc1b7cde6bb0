#include "mezzo/train/run_folder.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include <fmt/chrono.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

void check_made(const fs::path& folder, const std::error_code& error) {
  MEZZO_CHECK(!error, "train", "cannot make the run's folder {}: {}", folder.string(),
              error.message());
}

}  // namespace

bool holds_nothing(const fs::path& folder) {
  std::error_code none;
  return std::all_of(
      fs::directory_iterator(folder, none), fs::directory_iterator(),
      [](const auto& entry) { return entry.path().filename() == FolderLock::kFile; });
}

std::string model_name(const RunConfig& config) {
  if (config.init.empty()) return config.model;
  std::filesystem::path place = std::filesystem::path(config.init).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  const bool is_checkpoint = place.parent_path().filename() == kCheckpoints;
  return (is_checkpoint ? run_of(place) : place).filename().string();
}

std::string make_dated_folder(const std::string& model, const std::string& kind) {
  const std::time_t now = std::time(nullptr);
  const std::string name =
      fmt::format("runs/{:%Y%m%d-%H%M%S}-{}-{}", *std::localtime(&now), model, kind);
  std::error_code error;
  fs::create_directories("runs", error);
  std::string folder = name;
  for (int number = 2; !error && !fs::create_directory(folder, error) && !error; ++number)
    folder = fmt::format("{}-{}", name, number);
  check_made(folder, error);
  return folder;
}

RunFolder::RunFolder(const RunConfig& config) : path_(config.out) {
  if (path_.empty()) {
    path_ = make_dated_folder(model_name(config), config.precision);
    is_new_ = true;
  } else if (config.resume.empty()) {
    MEZZO_CHECK_USAGE(holds_nothing(path_), "train",
                      "--out {} is not empty. Hint: take another folder, or go on with --resume {}",
                      path_.string(), path_.string());
    std::error_code error;
    is_new_ = fs::create_directories(path_, error);
    check_made(path_, error);
  }
  lock_.emplace(path_);
  for (const char* part : {"", kCheckpoints, kFailures})
    remove_leftovers(path_ / part, std::chrono::hours(0));
}

RunFolder::~RunFolder() {
  std::error_code ignored;
  if (is_new_ && holds_nothing(path_)) fs::remove_all(path_, ignored);
}

}  // namespace mezzo::train
