#include "mezzo/report/format.h"

#include <array>
#include <cmath>

#include <fmt/format.h>

namespace mezzo::report {
namespace {

/// `value` in the largest unit that keeps it above 1, with one decimal below 100. The unit is
/// chosen by the rounded value: 999'950 is 1.0M and not 1000k.
template <size_t kUnits>
std::string in_unit(double value, double base, const std::array<const char*, kUnits>& units) {
  size_t unit = 0;
  while (unit + 1 < kUnits && std::abs(value) >= base - 0.5) {
    value /= base;
    ++unit;
  }
  const bool has_decimal = unit > 0 && std::abs(value) < 99.95;
  return fmt::format("{:.{}f}{}", value, has_decimal ? 1 : 0, units[unit]);
}

std::string after_bar(const std::string& remark) { return remark.empty() ? "" : " | " + remark; }

}  // namespace

std::string format_count(double count) {
  return in_unit<6>(count, 1000.0, {"", "k", "M", "G", "T", "P"});
}

std::string format_bytes(int64_t bytes) {
  return in_unit<6>(static_cast<double>(bytes), 1024.0,
                    {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}d{:02}h", whole / 86400, whole / 3600 % 24);
}

std::string format_ms(double ms) {
  if (ms >= 9999.5) return fmt::format("{:.1f} s", ms / 1000);
  return fmt::format("{:.{}f} ms", ms, ms < 9.95 ? 1 : 0);
}

std::string format_fixed(double value, int decimals) {
  return std::isnan(value) ? "nan" : fmt::format("{:.{}f}", value, decimals);
}

std::string format_scale(double scale) {
  const bool is_whole = std::abs(scale) < 1e15 && scale == std::floor(scale);
  return is_whole ? fmt::format("{:.0f}", scale) : fmt::format("{:.6g}", scale);
}

std::string format_step(int64_t step, int64_t steps_total) {
  const std::string total = std::to_string(steps_total);
  return fmt::format("step {:>{}}/{}", step, total.size(), total);
}

std::string format_step_line(const StepRecord& record, int64_t steps_total) {
  return fmt::format("{} | loss {} | norm {} | scale {} | lr {:.1e} | {} | {} tok/s",
                     format_step(record.step, steps_total), format_fixed(record.loss, 4),
                     format_fixed(record.grad_norm, 3), format_scale(record.scale), record.lr,
                     format_ms(record.step_ms), format_count(record.tokens_per_s));
}

std::string format_eval_line(const EvalRecord& record, int64_t steps_total) {
  return fmt::format("{} | val loss {} | val accuracy {:.2f} %",
                     format_step(record.step, steps_total), format_fixed(record.val_loss, 4),
                     record.val_accuracy * 100);
}

std::string format_skips(int64_t skipped, int64_t explained) {
  if (explained == 0) return fmt::format("{} skipped", skipped);
  return fmt::format("{} skipped ({} probe{})", skipped, explained, explained == 1 ? "" : "s");
}

std::string format_skip_note(int64_t step, int64_t steps_total, const std::string& reason,
                             double scale_before, double scale_after, const std::string& remark) {
  const std::string scale =
      scale_before == scale_after
          ? fmt::format("stays at {}", format_scale(scale_before))  // a fixed one, or the smallest
          : fmt::format("{} -> {}", format_scale(scale_before), format_scale(scale_after));
  return fmt::format("step {:>{}} skipped: {}, scale {}{}", step,
                     std::to_string(steps_total).size(), reason, scale, after_bar(remark));
}

std::string format_overflow_note(int64_t step, int64_t steps_total, const std::string& reason,
                                 const std::string& remark) {
  return fmt::format("step {:>{}}: {}{}", step, std::to_string(steps_total).size(), reason,
                     after_bar(remark));
}

}  // namespace mezzo::report
