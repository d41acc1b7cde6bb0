#include "mezzo/cli/data_progress.h"

#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

#include "mezzo/report/terminal.h"

namespace mezzo::cli {

void DataProgress::operator()(std::string_view phase, double fraction) {
  const int percent = static_cast<int>(100.0 * fraction);
  const bool is_new_phase = phase != phase_;
  if (!is_new_phase && percent == percent_) return;
  static const bool is_terminal = report::terminal_at(STDERR_FILENO).is_terminal;
  if (is_new_phase) {
    finish();
    phase_ = phase;
    if (!is_terminal) fmt::print(stderr, "data: {}\n", phase_);
  }
  percent_ = percent;
  if (is_terminal) {
    fmt::print(stderr, "\rdata: {} {:3} %", phase_, percent_);
    std::fflush(stderr);
  }
}

void DataProgress::finish() {
  if (!phase_.empty() && report::terminal_at(STDERR_FILENO).is_terminal) fmt::print(stderr, "\n");
  phase_.clear();
}

}  // namespace mezzo::cli
