#include "mezzo/report/metrics_file.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/report/json_number.h"

namespace mezzo::report {
namespace {

using Json = nlohmann::ordered_json;

/// The step of a row, or nothing if the line is no row.
std::optional<int64_t> step_of(std::string_view line) {
  const Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) return {};
  return row["step"].get<int64_t>();
}

/// Where the rows up to `last_step` end, which are the first of the file.
size_t end_of_rows_up_to(int64_t last_step, std::string_view text, const std::string& path) {
  size_t end = 0;
  bool is_later = false;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t newline = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, newline - begin);
    begin = newline + 1;
    const auto step = step_of(line);
    if (!step && begin >= text.size()) break;  // killed while it wrote this line
    MEZZO_CHECK(step, path,
                "line {} must be a JSON object with a \"step\", but is \"{}\". Hint: move the file "
                "away; the run starts a new one",
                number, line.substr(0, 60));
    is_later = is_later || *step > last_step;
    if (!is_later) end = std::min(begin, text.size());
  }
  return end;
}

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path path, int64_t start_step)
    : path_(std::move(path)), start_step_(start_step), file_(path_) {
  file_.append();
  end_of_rows_up_to(start_step_, read_file(path_), path_.string());
}

void MetricsFile::on_step(const StepRecord& record) {
  Json row;
  row["step"] = record.step;
  row["loss"] = json_number(record.loss);
  row["lr"] = json_number(record.lr);
  row["grad_norm"] = json_number(record.grad_norm);
  row["scale"] = json_number(record.scale);
  row["skipped"] = record.skipped;
  row["explained"] = record.explained;
  row["retries"] = record.retries;
  row["step_ms"] = json_number(record.step_ms);
  row["tokens_per_s"] = json_number(record.tokens_per_s);
  write_row(row.dump());
}

void MetricsFile::on_eval(const EvalRecord& record) {
  Json row;
  row["step"] = record.step;
  row["val_loss"] = json_number(record.val_loss);
  row["val_accuracy"] = json_number(record.val_accuracy);
  write_row(row.dump());
}

void MetricsFile::on_gradients(const GradientRecord& record) {
  Json gradients;
  gradients["values"] = record.values;
  gradients["zeros"] = record.zeros;
  gradients["zeros_in_16_bits"] = record.zeros_in_16_bits;
  gradients["nonfinite"] = record.nonfinite;
  gradients["first_exponent"] = record.first_exponent;
  gradients["counts"] = record.counts;
  Json row;
  row["step"] = record.step;
  row["gradients"] = gradients;
  write_row(row.dump());
}

void MetricsFile::on_health(const HealthRecord& record) {
  Json rows = Json::array();
  for (const HealthRecord::Row& of : record.rows) {
    Json row = {{"where", of.where},
                {"what", of.what},
                {"dtype", of.dtype},
                {"values", of.values},
                {"nonfinite", of.nonfinite},
                {"largest", json_number(of.largest)},
                {"rms", json_number(of.rms)},
                {"headroom_bits", json_number(of.headroom_bits)},
                {"zeros", json_number(of.zeros)}};
    for (const auto& [format, share] : of.underflow) row["underflow"][format] = json_number(share);
    if (of.update.has_value()) row["update"] = json_number(*of.update);
    if (of.lost_update.has_value()) row["lost_update"] = json_number(*of.lost_update);
    rows.push_back(std::move(row));
  }
  Json row;
  row["step"] = record.step;
  row["health"] = {{"scale", json_number(record.scale)}, {"rows", std::move(rows)}};
  write_row(row.dump());
}

void MetricsFile::on_end(const Summary&) { file_.append(); }

// The file is cut, not written anew: that takes no room on a full disk.
void MetricsFile::write_row(const std::string& json) {
  const char* ends_line = "";  // where the last one was cut off
  if (!has_begun_) {
    const std::string text = read_file(path_);
    const size_t end = end_of_rows_up_to(start_step_, text, path_.string());
    if (end > 0 && text[end - 1] != '\n') ends_line = "\n";
    std::filesystem::resize_file(path_, end);
    file_ = AppendedFile(path_);
    has_begun_ = true;
  }
  file_.append(fmt::format("{}{}\n", ends_line, json));
}

}  // namespace mezzo::report
