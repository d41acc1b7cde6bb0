#include "mezzo/cli/data_progress.h"

#include <cstdio>
#include <filesystem>
#include <functional>

#include <fmt/format.h>
#include <unistd.h>

#include "mezzo/cli/commands.h"
#include "mezzo/report/terminal.h"

namespace mezzo::cli {
namespace {

void end_line(const std::string& phase) {
  if (!phase.empty() && report::terminal_at(STDERR_FILENO).is_terminal) std::fputc('\n', stderr);
}

void tell_skipped(std::vector<data::SkippedFile> skipped) {
  // Of an empty file nothing is lost.
  std::erase_if(skipped, [](const data::SkippedFile& file) {
    std::error_code error;
    return std::filesystem::is_empty(file.path, error);
  });
  if (skipped.empty()) return;
  fmt::print(stderr, "data: {} {} skipped, which {} no text; the first, {}: {}\n", skipped.size(),
             skipped.size() == 1 ? "file is" : "files are", skipped.size() == 1 ? "is" : "are",
             skipped.front().path.string(), skipped.front().reason);
}

}  // namespace

DataProgress::DataProgress() { interrupted(); }

DataProgress::~DataProgress() { end_line(phase_); }

void DataProgress::operator()(std::string_view phase, double fraction) {
  if (interrupted()) throw Interrupted();
  const int percent = static_cast<int>(100.0 * fraction);
  const bool is_new_phase = phase != phase_;
  if (!is_new_phase && percent == percent_) return;
  static const bool is_terminal = report::terminal_at(STDERR_FILENO).is_terminal;
  if (is_new_phase) {
    end_line(phase_);
    phase_ = phase;
    if (!is_terminal) fmt::print(stderr, "data: {}\n", phase_);
  }
  percent_ = percent;
  if (is_terminal) {
    fmt::print(stderr, "\rdata: {} {:3} %", phase_, percent_);
    std::fflush(stderr);
  }
}

train::RunData open_data(const train::RunConfig& config) {
  train::RunData data = [&config] {
    DataProgress progress;
    return train::open_data(config, std::ref(progress));
  }();
  tell_skipped(data.skipped);
  return data;
}

}  // namespace mezzo::cli
