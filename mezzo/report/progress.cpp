#include "mezzo/report/progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "mezzo/base/check.h"
#include "mezzo/report/format.h"
#include "mezzo/report/summary_file.h"

namespace mezzo::report {
namespace {

constexpr int kMinBar = 6;
constexpr int kMaxBar = 32;
constexpr int kSparkColumns = 12;
constexpr size_t kMaxValueColumns = 20;
constexpr double kPaceMs = 5000;

constexpr const char* kEraseLine = "\r\x1b[K";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kYellow = "\x1b[33m";
constexpr const char* kCyan = "\x1b[36m";
constexpr const char* kReset = "\x1b[0m";

/// A part of the live line. Parts with the highest rank are left out first.
struct Part {
  int rank;
  std::string text;
  const char* colour;
};

/// Characters of UTF-8 text, each of which takes one column here.
int columns_of(const std::string& text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string painted(const std::string& text, const char* colour, bool has_colour) {
  return has_colour ? fmt::format("{}{}{}", colour, text, kReset) : text;
}

std::string repeated(const char* text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

/// "name value" pairs in as many columns as fit; below them those that are too long for a column.
std::vector<std::string> table(std::vector<std::pair<std::string, std::string>> settings,
                               int width) {
  const auto long_ones = std::stable_partition(
      settings.begin(), settings.end(),
      [](const auto& setting) { return setting.second.size() <= kMaxValueColumns; });
  std::vector<std::pair<std::string, std::string>> below(long_ones, settings.end());
  settings.erase(long_ones, settings.end());
  size_t name_columns = 0, value_columns = 0;
  for (const auto& [name, value] : settings) {
    name_columns = std::max(name_columns, name.size());
    value_columns = std::max(value_columns, value.size());
  }
  const size_t cell_columns = name_columns + value_columns + 4;
  const size_t per_line = std::max<size_t>(1, static_cast<size_t>(width) / cell_columns);
  const size_t lines = (settings.size() + per_line - 1) / per_line;
  std::vector<std::string> rows(lines);
  for (size_t i = 0; i < settings.size(); ++i) {  // down the columns, as one reads them
    const auto& [name, value] = settings[i];
    std::string& row = rows[i % lines];
    row += fmt::format("  {:<{}} {:<{}} ", name, name_columns, value, value_columns);
  }
  for (std::string& row : rows) row.erase(row.find_last_not_of(' ') + 1);
  for (const auto& [name, value] : below)
    rows.push_back(fmt::format("  {:<{}} {}", name, name_columns, value));
  return rows;
}

}  // namespace

Progress::Progress(std::ostream& out, ProgressOptions options)
    : out_(out), options_(std::move(options)) {
  if (!options_.now_s) {
    options_.now_s = [] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      return std::chrono::duration<double>(now).count();
    };
  }
}

Progress::~Progress() {
  if (live_line_is_shown_) out_ << '\n' << std::flush;
}

void Progress::on_start(const RunInfo& info) {
  info_ = info;
  started_s_ = options_.now_s();
  print_line(fmt::format("{} ({} parameters) in {} on {}, {} tokens a step{}", info.model,
                         format_count(static_cast<double>(info.parameters)), info.precision,
                         info.device, format_count(static_cast<double>(info.tokens_per_step)),
                         info.run_dir.empty() ? "" : " -> " + info.run_dir));
  for (const std::string& row : table(info.settings, options_.width())) print_line(row);
  if (info.start_step > 0) print_line(fmt::format("resumed after step {}", info.start_step));
}

void Progress::on_step(const StepRecord& record) {
  const bool is_first = !last_.has_value();
  last_ = with_recent_pace(record);
  if (record.skipped) ++skipped_steps_;
  if (record.explained) ++explained_skips_;
  losses_.add(record.loss);

  const bool is_live = options_.terminal.is_terminal;
  const double every_s = is_live ? options_.redraw_every_s : options_.line_every_s;
  const bool is_due = is_first || is_last_step() || options_.now_s() - shown_s_ >= every_s;
  if (!is_due) return;
  shown_s_ = options_.now_s();
  if (is_live) {
    draw_live_line();
  } else {
    print_line(format_step_line(*last_, info_.steps_total));
  }
}

/// A single step's own pace jumps about.
StepRecord Progress::with_recent_pace(StepRecord record) {
  if (!(record.step_ms > 0)) return record;
  const auto add = [this](const StepRecord& step, double sign) {
    recent_ms_ += sign * step.step_ms;
    recent_tokens_ += sign * step.tokens_per_s * step.step_ms / 1e3;
  };
  recent_.push_back(record);
  add(record, +1);
  while (recent_.size() > 1 && recent_ms_ > kPaceMs) {
    add(recent_.front(), -1);
    recent_.pop_front();
  }
  record.step_ms = recent_ms_ / static_cast<double>(recent_.size());
  record.tokens_per_s = 1e3 * recent_tokens_ / recent_ms_;
  return record;
}

void Progress::on_eval(const EvalRecord& record) {
  last_eval_ = record;
  print_line(format_eval_line(record, info_.steps_total));
}

void Progress::on_note(const std::string& text) {
  print_line(painted(text, kYellow, options_.terminal.has_colour));
}

void Progress::on_end(const Summary& summary) {
  std::string line = fmt::format("{}: {} steps, {} tokens", to_string(summary.status),
                                 summary.steps, format_count(static_cast<double>(summary.tokens)));
  const int64_t taken = summary.steps - info_.start_step;  // none: stopped before the first one
  if (info_.start_step > 0)                                // the time is not that of all of them
    line += fmt::format(", the last {} steps", taken);
  line += fmt::format(" in {}", format_duration(options_.now_s() - started_s_));
  if (taken > 0)
    line += fmt::format(" | loss {} (mean of {} steps)", format_fixed(summary.train_loss, 4),
                        std::min(taken, kTrainLossSteps));
  if (summary.val_loss) line += " | val loss " + format_fixed(*summary.val_loss, 4);
  if (summary.val_accuracy)
    line += fmt::format(" | accuracy {:.2f} %", *summary.val_accuracy * 100);
  if (taken > 0)
    line += fmt::format(" | {} | {} tok/s", format_ms(summary.median_step_ms),
                        format_count(summary.tokens_per_s));
  line += fmt::format(" | peak {} | {}", format_bytes(summary.peak_tensor_bytes),
                      format_skips(summary.skipped_steps, summary.explained_skips));
  if (summary.diverged_at) line += fmt::format(" | diverged at step {}", *summary.diverged_at);
  if (live_line_is_shown_) out_ << kEraseLine;  // the summary says all of it
  live_line_is_shown_ = false;
  last_.reset();
  print_line(line);
}

/// A line that stays, above the live one.
void Progress::print_line(const std::string& text) {
  if (live_line_is_shown_) out_ << kEraseLine;
  out_ << text << '\n' << std::flush;
  if (live_line_is_shown_) draw_live_line();
  MEZZO_CHECK(out_.good(), "progress", "its stream must take text, but has failed");
}

void Progress::draw_live_line() {
  // One column less than there are: a character in the last one makes some terminals wrap.
  out_ << kEraseLine << live_line(options_.width() - 1) << std::flush;
  live_line_is_shown_ = true;
  MEZZO_CHECK(out_.good(), "progress", "its stream must take text, but has failed");
}

std::string Progress::live_line(int width) const {
  const StepRecord& r = *last_;
  std::vector<Part> parts;
  parts.push_back({0, fmt::format("{}/{}", r.step, info_.steps_total), ""});
  parts.push_back({1, "loss " + format_fixed(r.loss, 4), kBold});
  if (options_.terminal.has_unicode) parts.push_back({8, losses_.draw(kSparkColumns), kDim});
  if (last_eval_) parts.push_back({4, "val " + format_fixed(last_eval_->val_loss, 4), ""});
  parts.push_back({3, format_count(r.tokens_per_s) + " tok/s", ""});
  if (r.scale != 1 || skipped_steps_ > 0) {
    parts.push_back({6, "scale " + format_scale(r.scale), ""});
  }
  if (skipped_steps_ > 0) {
    const bool is_alarm = skipped_steps_ > explained_skips_;
    parts.push_back({5, format_skips(skipped_steps_, explained_skips_), is_alarm ? kYellow : kDim});
  }
  if (r.peak_tensor_bytes > 0) {
    parts.push_back({7, "peak " + format_bytes(r.peak_tensor_bytes), ""});
  }
  parts.push_back({2, format_duration(seconds_left()) + " left", ""});

  // The bar and its space come first; between parts stands " | ".
  const auto columns = [&] {
    int sum = kMinBar + 1 - 3;
    for (const Part& part : parts) sum += columns_of(part.text) + 3;
    return sum;
  };
  while (parts.size() > 1 && columns() > width) {
    parts.erase(std::max_element(parts.begin(), parts.end(),
                                 [](const Part& a, const Part& b) { return a.rank < b.rank; }));
  }
  if (columns() > width) return parts[0].text.substr(0, static_cast<size_t>(std::max(0, width)));

  const bool has_colour = options_.terminal.has_colour;
  const int bar_columns = std::min(kMaxBar, kMinBar + width - columns());
  std::string line = painted(bar(bar_columns), kCyan, has_colour) + " ";
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool is_painted = has_colour && *parts[i].colour != '\0';
    line += (i == 0 ? "" : " | ") + painted(parts[i].text, parts[i].colour, is_painted);
  }
  return line;
}

std::string Progress::bar(int columns) const {
  const double total = static_cast<double>(std::max<int64_t>(1, info_.steps_total));
  const double share = std::clamp(static_cast<double>(last_->step) / total, 0.0, 1.0);
  const int full = static_cast<int>(std::floor(share * columns));
  const bool has_unicode = options_.terminal.has_unicode;
  return repeated(has_unicode ? "━" : "#", full) +
         repeated(has_unicode ? "─" : "-", columns - full);
}

/// From the pace of the whole run so far: evaluations and checkpoints are part of it.
double Progress::seconds_left() const {
  const auto done = static_cast<double>(last_->step - info_.start_step);
  const auto to_do = static_cast<double>(info_.steps_total - last_->step);
  return done > 0 ? (options_.now_s() - started_s_) / done * to_do : NAN;
}

bool Progress::is_last_step() const { return last_->step >= info_.steps_total; }

}  // namespace mezzo::report
