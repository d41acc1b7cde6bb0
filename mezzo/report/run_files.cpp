#include "mezzo/report/run_files.h"

#include <sstream>

#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/report/json_number.h"
#include "mezzo/report/summary_file.h"

namespace mezzo::report {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

StepRecord step_of(const Json& row) {
  StepRecord record;
  record.step = row.at("step").get<int64_t>();
  record.loss = number_of(row.at("loss"));
  record.lr = number_of(row.at("lr"));
  record.grad_norm = number_of(row.at("grad_norm"));
  record.scale = number_of(row.at("scale"));
  record.skipped = row.at("skipped").get<bool>();
  record.explained = row.value("explained", false);  // not in files of older builds
  record.retries = row.value("retries", 0);          // nor this
  record.step_ms = number_of(row.at("step_ms"));
  record.tokens_per_s = number_of(row.at("tokens_per_s"));
  return record;
}

EvalRecord eval_of(const Json& row) {
  return {row.at("step").get<int64_t>(), number_of(row.at("val_loss")),
          number_of(row.at("val_accuracy"))};
}

GradientRecord gradients_of(const Json& row) {
  const Json& gradients = row.at("gradients");
  GradientRecord record;
  record.step = row.at("step").get<int64_t>();
  record.values = gradients.at("values").get<int64_t>();
  record.zeros = gradients.at("zeros").get<int64_t>();
  record.zeros_in_16_bits = gradients.at("zeros_in_16_bits").get<int64_t>();
  record.nonfinite = gradients.at("nonfinite").get<int64_t>();
  record.first_exponent = gradients.at("first_exponent").get<int>();
  record.counts = gradients.at("counts").get<std::vector<int64_t>>();
  return record;
}

void add_row(RunFiles& run, const Json& row) {
  if (row.contains("loss")) {
    run.steps.push_back(step_of(row));
  } else if (row.contains("val_loss")) {
    run.evals.push_back(eval_of(row));
  } else if (!row.contains("health")) {  // those are for other readers
    run.gradients.push_back(gradients_of(row));
  }
}

void read_metrics(const fs::path& path, RunFiles& run) {
  std::istringstream lines(read_file(path));
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (lines.eof()) break;  // without its newline: not written to its end
    try {
      add_row(run, Json::parse(line));
    } catch (const std::exception& error) {
      detail::fail<Error>(path.string(), "line {} is no row of a run's metrics: {}", number,
                          error.what());
    }
  }
}

Status status_of(const std::string& word) {
  for (const Status status : {Status::kDone, Status::kInterrupted, Status::kDiverged}) {
    if (word == to_string(status)) return status;
  }
  detail::fail<Error>("summary", "status must be done, interrupted or diverged, but is '{}'", word);
}

std::optional<double> optional_number(const Json& value) {
  if (value.is_null()) return std::nullopt;
  return number_of(value);
}

std::optional<BytesByKind> kinds_of(const Json& kinds) {
  if (kinds.is_null()) return std::nullopt;
  return BytesByKind{kinds.at("weights").get<int64_t>(), kinds.at("gradients").get<int64_t>(),
                     kinds.at("optimizer_state").get<int64_t>(),
                     kinds.at("activations").get<int64_t>(),
                     kinds.at("temporaries").get<int64_t>()};
}

Summary summary_of(const Json& json) {
  Summary summary;
  summary.status = status_of(json.at("status").get<std::string>());
  summary.model = json.at("model").get<std::string>();
  summary.precision = json.at("precision").get<std::string>();
  summary.device = json.at("device").get<std::string>();
  summary.parameters = json.at("parameters").get<int64_t>();
  summary.steps = json.at("steps").get<int64_t>();
  summary.tokens = json.at("tokens").get<int64_t>();
  summary.median_step_ms = number_of(json.at("median_step_ms"));
  summary.tokens_per_s = number_of(json.at("tokens_per_s"));
  summary.peak_tensor_bytes = json.at("peak_tensor_bytes").get<int64_t>();
  summary.peak_kinds = kinds_of(json.at("peak_bytes_by_kind"));
  summary.peak_rss_bytes = json.at("peak_rss_bytes").get<int64_t>();
  summary.train_loss = number_of(json.at("train_loss"));
  summary.val_loss = optional_number(json.at("val_loss"));
  summary.val_accuracy = optional_number(json.at("val_accuracy"));
  summary.skipped_steps = json.at("skipped_steps").get<int64_t>();
  summary.explained_skips = json.value("explained_skips", int64_t{0});
  summary.final_scale = number_of(json.at("final_scale"));
  if (json.contains("diverged_at")) summary.diverged_at = json.at("diverged_at").get<int64_t>();
  return summary;
}

}  // namespace

RunFiles read_run_files(const fs::path& folder) {
  RunFiles run;
  const fs::path metrics = folder / kMetricsFile, summary = folder / kSummaryFile;
  if (fs::exists(metrics)) read_metrics(metrics, run);
  if (!fs::exists(summary)) return run;
  try {
    run.summary = summary_of(Json::parse(read_file(summary)));
  } catch (const std::exception& error) {
    detail::fail<Error>(summary.string(), "is no summary of a run: {}", error.what());
  }
  return run;
}

}  // namespace mezzo::report
